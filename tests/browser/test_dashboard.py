"""The dashboard in a browser."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any

from PIL import Image
from playwright.sync_api import Locator, Page, expect

from testing.service_process import wait_until
from testing.tracing import spans_in
from tests.browser.conftest import RunningDashboard

MANY_STEPS = 40
RARE_STEPS = 97  # which no other test uses
CAPTION = re.compile(r"^ID: \d+ \(.+\)$")

# Records every width of the progress bar and every image that is shown.
WATCH = """() => {
  window.seen = { bars: [], pictures: [] };
  new MutationObserver(() => {
    const bar = document.querySelector("[role=progressbar]")?.getAttribute("aria-valuenow");
    const picture = document.querySelector("#picture img")?.src;
    if (bar && window.seen.bars.at(-1) !== bar) window.seen.bars.push(bar);
    if (picture && window.seen.pictures.at(-1) !== picture) window.seen.pictures.push(picture);
  }).observe(document.body, { subtree: true, childList: true, attributes: true });
}"""

# Returns the position on the page of the median pixel of a mask; images are fitted into their box and centred.
FIND_OPAQUE = """async mask => {
  await mask.decode();
  const { naturalWidth: width, naturalHeight: height } = mask;
  const canvas = new OffscreenCanvas(width, height).getContext("2d");
  canvas.drawImage(mask, 0, 0);
  const alpha = canvas.getImageData(0, 0, width, height).data.filter((_, i) => i % 4 === 3);
  const pixels = [...alpha.keys()].filter(i => alpha[i] > 0);
  const middle = pixels[Math.floor(pixels.length / 2)];
  const box = mask.getBoundingClientRect();
  const scale = Math.min(box.width / width, box.height / height);
  return {
    x: box.x + box.width / 2 + (middle % width + 0.5 - width / 2) * scale,
    y: box.y + box.height / 2 + (Math.floor(middle / width) + 0.5 - height / 2) * scale,
  };
}"""


def generate(page: Page, prompt: str = "red apple in white plate") -> None:
    page.get_by_label("Prompt", exact=True).fill(prompt)
    page.get_by_role("button", name="Generate").click()
    expect(page.locator(".facts b")).to_have_text(prompt)
    page.locator("#regions .mask").first.wait_for(state="attached")


def upload(page: Page, colour: str = "orange", size: tuple[int, int] = (120, 90)) -> None:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    page.locator("input[type=file]").set_input_files(
        {"name": "own.png", "mimeType": "image/png", "buffer": file.getvalue()}
    )
    expect(page.locator(".facts")).to_contain_text("Uploaded image")


def rows(page: Page, table: str) -> Locator:
    """Return a table's rows, its header first."""
    return page.locator(table).get_by_role("row")


def num_regions(dashboard: RunningDashboard) -> int:
    """Return the number of regions of the newest image, from the API."""
    with dashboard.service.client() as client:
        (newest,) = client.get("/v1/images", params={"limit": 1}).json()["images"]
        answer = client.post("/segment", params={"image_id": newest["image_id"]})
    return len(answer.json()["segmented_regions"])


def test_an_image_appears_step_by_step_and_then_its_analyses(page: Page, dashboard: RunningDashboard):
    page.get_by_text("Parameters", exact=True).click()
    expect(page.get_by_label("number input for Steps")).to_have_value("15")  # the profile's, which come after the page
    page.get_by_label("number input for Steps").fill(str(MANY_STEPS))
    page.evaluate(WATCH)

    generate(page)

    seen = page.evaluate("window.seen")
    steps = [int(bar) for bar in seen["bars"]]
    assert steps == sorted(steps)
    assert len(steps) >= 2  # a busy browser renders few of them
    assert steps[-1] == 100
    assert len(set(seen["pictures"])) >= 2
    expect(page.locator(".progress")).to_contain_text(f"{MANY_STEPS} steps in")
    expect(page.locator("#spotlights .caption-label").first).to_have_text(CAPTION)
    number = num_regions(dashboard)
    expect(page.locator("#spotlights .caption-label")).to_have_count(number)
    expect(page.locator("#regions .legend-item")).to_have_count(number)
    page.get_by_role("tab", name="Analyze").click()
    expect(rows(page, "#classes")).to_have_count(1 + 5)
    page.get_by_role("tab", name="Segment data").click()
    expect(rows(page, "#segments")).to_have_count(1 + number)


def test_the_region_under_the_pointer_is_highlighted(page: Page, dashboard: RunningDashboard):
    generate(page)
    masks = page.locator("#regions .mask")
    expect(page.locator("#regions .legend-item")).to_have_count(num_regions(dashboard))
    expect(masks).to_have_count(num_regions(dashboard))
    labels = [text.strip() for text in page.locator("#regions .legend-item").all_text_contents()]
    place = masks.first.evaluate(FIND_OPAQUE)

    page.mouse.move(place["x"], place["y"])

    expect(page.locator("#regions .mask.active")).to_have_count(1)
    active = masks.evaluate_all("masks => masks.findIndex(mask => mask.classList.contains('active'))")
    assert page.locator("#regions-hint").text_content() == labels[active]
    assert CAPTION.match(labels[active])
    page.mouse.move(2, 2)
    expect(page.locator("#regions .mask.active")).to_have_count(0)
    expect(page.locator("#regions-hint")).to_be_hidden()


def test_a_text_is_compared_with_the_image_and_its_regions(page: Page, dashboard: RunningDashboard):
    generate(page)
    regions = num_regions(dashboard)
    page.get_by_role("tab", name="Probe").click()
    page.get_by_placeholder("A text to compare").fill("metal")

    page.get_by_role("button", name="Probe").click()

    expect(rows(page, "#matches").nth(1)).to_contain_text("whole image")
    expect(rows(page, "#matches")).to_have_count(1 + 1 + regions)


def test_an_uploaded_image_is_analyzed(page: Page):
    upload(page)

    expect(page.locator(".facts")).to_contain_text("120 × 90")
    expect(page.get_by_role("button", name="Use these parameters again")).to_be_hidden()
    page.get_by_role("tab", name="Analyze").click()
    expect(rows(page, "#classes")).to_have_count(1 + 5)


def test_an_earlier_image_is_restored_with_its_parameters(page: Page):
    generate(page, "green pear")
    seed = page.locator(".facts span").filter(has_text="seed").text_content()
    assert seed is not None
    generate(page, "blue cup")
    expect(page.locator("#history .thumbnail-item").first).to_contain_text("blue cup")  # wait for the new entry

    page.locator("#history .thumbnail-item", has_text="green pear").first.click()
    expect(page.locator(".facts b")).to_have_text("green pear")
    page.get_by_role("button", name="Use these parameters again").click()

    expect(page.get_by_label("Prompt", exact=True)).to_have_value("green pear")
    page.get_by_text("Parameters", exact=True).click()
    expect(page.get_by_label("Seed")).to_have_value(seed.removeprefix("seed "))


def test_an_error_shows_advice_and_the_request_id(page: Page, dashboard: RunningDashboard):
    page.get_by_label("Prompt", exact=True).fill("  ")
    page.get_by_role("button", name="Generate").click()

    toast = page.get_by_test_id("toast-body")
    expect(toast).to_contain_text("send a few words")
    request_id = re.search(r"Request ([0-9a-f-]{36})", toast.text_content() or "")
    assert request_id is not None
    log = dashboard.service.data_dir / "app.log"
    wait_until(lambda: request_id[1] in log.read_text())
    expect(page.locator(".progress")).to_contain_text("Not made")


def test_browsers_are_isolated_and_a_reload_keeps_the_session(visitor: Callable[[], Page]):
    one, other = visitor(), visitor()
    upload(one, "orange", (100, 50))
    upload(other, "purple", (50, 100))

    one.reload()

    expect(one.locator(".facts")).to_contain_text("100 × 50")
    expect(other.locator(".facts")).to_contain_text("50 × 100")


def test_two_browsers_generate_at_once_and_each_sees_its_own_image(visitor: Callable[[], Page]):
    pages = {prompt: visitor() for prompt in ("green pear", "blue cup")}
    for prompt, page in pages.items():
        page.get_by_label("Prompt", exact=True).fill(prompt)
        page.get_by_role("button", name="Generate").click()

    for prompt, page in pages.items():
        expect(page.locator(".facts b")).to_have_text(prompt)
        page.locator("#regions .mask").first.wait_for(state="attached")


def test_stop_stops_the_denoising(page: Page, dashboard: RunningDashboard):
    page.get_by_text("Parameters", exact=True).click()
    expect(page.get_by_label("number input for Steps")).to_have_value("15")  # the profile's, which come after the page
    page.get_by_label("number input for Steps").fill(str(RARE_STEPS))
    page.get_by_label("number input for Width").fill("256")
    page.get_by_label("number input for Height").fill("256")
    page.get_by_role("button", name="Generate").click()
    expect(page.locator(".progress")).to_contain_text(f"of {RARE_STEPS}")

    page.get_by_role("button", name="Stop").click()

    expect(page.locator(".progress")).to_contain_text("Stopped")

    def denoised() -> list[dict[str, Any]]:
        spans = [span for span in spans_in(dashboard.service.spans) if span["name"] == "denoise"]
        return [span for span in spans if span["attributes"]["steps"] == RARE_STEPS]

    wait_until(denoised)
    (stopped,) = denoised()
    assert 1 <= len(stopped["events"]) < RARE_STEPS


def test_the_page_loads_nothing_from_other_hosts(visitor: Callable[[], Page], dashboard: RunningDashboard):
    requested: list[str] = []
    page = visitor()
    page.on("request", lambda request: requested.append(request.url))

    page.reload()
    generate(page)

    assert requested
    assert [url for url in requested if not url.startswith((dashboard.url, "data:", "blob:"))] == []

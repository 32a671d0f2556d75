// Highlights the region under the pointer: Gradio's AnnotatedImage does so for its legend only. The masks are overlaid
// as separate pictures; of those not transparent under the pointer, the smallest is selected.
(() => {
  const areas = new WeakMap();  // mask image -> its pixels and how many are set
  let lit = null;

  const read = (mask) => {
    if (!areas.has(mask)) {
      const canvas = document.createElement("canvas");
      canvas.width = mask.naturalWidth;
      canvas.height = mask.naturalHeight;
      const context = canvas.getContext("2d");
      context.drawImage(mask, 0, 0);
      const { data, width, height } = context.getImageData(0, 0, canvas.width, canvas.height);
      let size = 0;
      for (let i = 3; i < data.length; i += 4) size += data[i] > 0;
      areas.set(mask, { data, width, height, size });
    }
    return areas.get(mask);
  };

  const under = (masks, event) => {
    let found = null;
    masks.forEach((mask, i) => {
      if (!mask.complete || !mask.naturalWidth) return;
      const box = mask.getBoundingClientRect();
      const { data, width, height, size } = read(mask);
      const scale = Math.min(box.width / width, box.height / height);  // object-fit: contain, centred
      const x = Math.floor((event.clientX - box.left - (box.width - width * scale) / 2) / scale);
      const y = Math.floor((event.clientY - box.top - (box.height - height * scale) / 2) / scale);
      const inside = x >= 0 && y >= 0 && x < width && y < height && data[(y * width + x) * 4 + 3] > 0;
      if (inside && (!found || size < found.size)) found = { i, size };
    });
    return found && found.i;
  };

  const hint = document.createElement("div");
  hint.id = "regions-hint";

  const light = (items, index, event) => {
    const item = index === null ? null : items[index];
    if (lit && lit !== item) lit.dispatchEvent(new MouseEvent("mouseout", { bubbles: true }));
    if (item && lit !== item) item.dispatchEvent(new MouseEvent("mouseover", { bubbles: true }));
    lit = item;
    hint.style.display = item ? "block" : "none";
    if (!item) return;
    hint.textContent = item.textContent.trim();
    hint.style.left = `${event.clientX}px`;
    hint.style.top = `${event.clientY}px`;
  };

  document.addEventListener("mousemove", (event) => {
    const regions = document.getElementById("regions");
    if (!regions) return;
    if (!hint.isConnected) document.body.append(hint);
    const items = regions.querySelectorAll(".legend-item");
    const over = event.target.closest?.("#regions .image-container");
    light(items, over ? under(regions.querySelectorAll(".image-container .mask"), event) : null, event);
  });
})();

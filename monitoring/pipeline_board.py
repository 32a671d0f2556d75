"""The pipeline dashboard: requests, stages, queues, cache and storage."""

from __future__ import annotations

from monitoring.panels import Board, Panel, Query, Row, Unit, growth, or_zero, quantiles, rate

ROUTE = 'route=~"$route"'
REFUSALS = 'code=~"overloaded|too_many_.+|model_not_ready|deadline_exceeded"'

REQUESTS = Row(
    title="Requests",
    panels=(
        Panel(
            title="Requests",
            about="Answered requests a second, by route.",
            unit=Unit.PER_SECOND,
            is_stacked=True,
            queries=(Query(rate("ray_pipeline_requests_total", "route", ROUTE), "{{route}}"),),
        ),
        Panel(
            title="Errors",
            about="Requests refused or failed a second, by route and code. Those of 5xx burn the error budget.",
            unit=Unit.PER_SECOND,
            is_stacked=True,
            queries=(Query(or_zero(rate("ray_pipeline_errors_total", "route, code", ROUTE)), "{{route}} {{code}}"),),
        ),
        Panel(
            title="Rejections by reason",
            about="Requests sent away because there is too much to do or no model: callers are told when to come back.",
            unit=Unit.PER_SECOND,
            is_stacked=True,
            queries=(Query(or_zero(rate("ray_pipeline_errors_total", "code", REFUSALS)), "{{code}}"),),
        ),
        Panel(
            title="End to end",
            about="From request to answer, over the chosen routes.",
            unit=Unit.SECONDS,
            queries=quantiles("ray_pipeline_request_seconds", where=ROUTE),
        ),
        Panel(
            title="End to end p95 by route",
            about="Which route is slow.",
            unit=Unit.SECONDS,
            queries=quantiles("ray_pipeline_request_seconds", "route", ROUTE, only=(0.95,)),
        ),
        Panel(
            title="Time to first preview",
            about="From a job's acceptance to the first look at its image, of those who look.",
            unit=Unit.SECONDS,
            queries=quantiles("ray_pipeline_first_preview_seconds"),
        ),
    ),
)

STAGES = Row(
    title="Stages",
    panels=(
        *(
            Panel(
                title=f"Stages p{100 * q:g}",
                about="Each stage's own work, waiting for a worker included.",
                unit=Unit.SECONDS,
                queries=quantiles("ray_pipeline_stage_seconds", "stage", only=(q,)),
            )
            for q in (0.5, 0.95, 0.99)
        ),
        Panel(
            title="Denoising steps",
            about="Steps computed a second, over all images and replicas.",
            unit=Unit.PER_SECOND,
            queries=(Query(rate("ray_pipeline_engine_steps_total"), "steps"),),
        ),
        Panel(
            title="Batch occupancy",
            about="Rows of the UNet's batches that hold an image. Low under load: many sizes, or too many replicas.",
            unit=Unit.SHARE,
            queries=(
                Query(
                    f"{rate('ray_pipeline_engine_rows_filled_total')}"
                    f" / {rate('ray_pipeline_engine_rows_computed_total')}",
                    "filled",
                ),
            ),
        ),
        Panel(
            title="Workers lost",
            about="Stages begun again in five minutes, as their worker died. Memory is the usual reason.",
            unit=Unit.COUNT,
            queries=(Query(or_zero(growth("ray_pipeline_stage_retries_total", "5m", "stage")), "{{stage}}"),),
        ),
    ),
)

QUEUES = Row(
    title="Waiting",
    panels=(
        Panel(
            title="Admission wait",
            about="From a job's acceptance to the beginning of its work. Grows first when there is too little.",
            unit=Unit.SECONDS,
            queries=quantiles("ray_pipeline_queue_seconds"),
        ),
        Panel(
            title="Wait for a replica p95",
            about="From a call to its assignment to a replica, by deployment.",
            unit=Unit.MILLISECONDS,
            queries=quantiles("ray_serve_request_router_fulfillment_time_ms", "deployment", only=(0.95,)),
        ),
        Panel(
            title="Queue depth",
            about="Jobs nobody works on, calls no replica has taken, and pieces of work in hand at the ingress.",
            unit=Unit.COUNT,
            queries=(
                Query('max(pipeline_store_jobs{state="queued"})', "jobs queued"),
                Query("sum by (deployment) (ray_serve_deployment_queued_queries)", "calls for {{deployment}}"),
                Query("sum by (gate) (ray_pipeline_in_hand)", "{{gate}} in hand"),
            ),
        ),
        Panel(
            title="Jobs by state",
            about="Of all that are kept. Dead ones killed their workers three times.",
            unit=Unit.COUNT,
            queries=(Query("max by (state) (pipeline_store_jobs)", "{{state}}"),),
        ),
        Panel(
            title="Age of the oldest job",
            about="Of those that haven't ended.",
            unit=Unit.SECONDS,
            limit=300,
            queries=(Query("max by (state) (pipeline_store_oldest_job_age_seconds)", "{{state}}"),),
        ),
        Panel(
            title="Webhook backlog",
            about="Deliveries that are to be sent, and those that nobody took.",
            unit=Unit.COUNT,
            queries=(Query('max by (state) (pipeline_store_deliveries{state!="delivered"})', "{{state}}"),),
        ),
    ),
)

CACHE = Row(
    title="Cache",
    panels=(
        Panel(
            title="Hit ratio",
            about="Of what the shared cache is asked for; and the share of all results that needn't be computed.",
            unit=Unit.SHARE,
            queries=(
                Query(
                    f"({or_zero(rate('ray_pipeline_cache_hits_total'))}) / "
                    f"(({or_zero(rate('ray_pipeline_cache_hits_total'))}) + {rate('ray_pipeline_cache_misses_total')})",
                    "shared cache",
                ),
                Query(
                    f"{rate('ray_pipeline_results_reused_total')} / "
                    f"({rate('ray_pipeline_results_reused_total')} + {rate('ray_pipeline_stage_seconds_count')})",
                    "all results",
                ),
            ),
        ),
        Panel(
            title="Results reused",
            about="By where they were: this replica's memory, the shared cache, a run in progress, the store.",
            unit=Unit.PER_SECOND,
            is_stacked=True,
            queries=(Query(rate("ray_pipeline_results_reused_total", "source"), "{{source}}"),),
        ),
        Panel(
            title="Single-flight waits",
            about="Callers a second who waited for another's computation instead of doing it again.",
            unit=Unit.PER_SECOND,
            queries=(
                Query(or_zero(rate("ray_pipeline_cache_waits_total")), "of another replica"),
                Query(or_zero(rate("ray_pipeline_results_reused_total", where='source="run"')), "of the same replica"),
            ),
        ),
        Panel(
            title="Cache size",
            about="Bytes kept, over all shards.",
            unit=Unit.BYTES,
            queries=(Query("sum(ray_pipeline_cache_bytes)", "kept"),),
        ),
        Panel(
            title="Evictions",
            about="Values dropped a second for want of room. Steadily: `cache.max_bytes` is too small.",
            unit=Unit.PER_SECOND,
            queries=(Query(or_zero(rate("ray_pipeline_cache_evictions_total")), "evicted"),),
        ),
        Panel(
            title="Cache bypassed",
            about="Calls the cache didn't answer in time. The work went on without it, maybe twice.",
            unit=Unit.PER_SECOND,
            queries=(Query(or_zero(rate("ray_pipeline_cache_bypassed_total", "operation")), "{{operation}}"),),
        ),
    ),
)

KEPT = Row(
    title="Kept",
    panels=(
        Panel(
            title="Images stored",
            about="Images that are kept.",
            unit=Unit.COUNT,
            queries=(Query("max(pipeline_store_images)", "images"),),
        ),
        Panel(
            title="Bytes stored",
            about="Of these images, and what is free where the data folder lies.",
            unit=Unit.BYTES,
            queries=(
                Query("max(pipeline_store_image_bytes)", "images"),
                Query("min(pipeline_disk_free_bytes)", "free on the disk"),
            ),
        ),
        Panel(
            title="Events",
            about="Facts logged a second: jobs that were submitted, began and ended, images that came and went.",
            unit=Unit.PER_SECOND,
            queries=(Query("max(rate(pipeline_store_events_logged_total[$__rate_interval]))", "logged"),),
        ),
    ),
)

PIPELINE = Board(
    uid="ai-pipeline",
    title="Pipeline",
    about="What is asked of the image pipeline, how long it takes, what waits, what is kept.",
    rows=(REQUESTS, STAGES, QUEUES, CACHE, KEPT),
    has_routes=True,
)

"""The pipeline dashboard: requests, stages, queues, cache and storage."""

from __future__ import annotations

from monitoring.panels import Board, Panel, Query, Row, Unit, growth, or_zero, quantiles, rate

ROUTE = 'route=~"$route"'
REFUSALS = 'code=~"overloaded|queue_full|.+_limited|job_limit_reached|model_not_ready|deadline_exceeded"'

REQUESTS = Row(
    title="Requests",
    panels=(
        Panel(
            title="Requests",
            about="Requests per second, by route.",
            unit=Unit.PER_SECOND,
            is_stacked=True,
            queries=(Query(rate("ray_pipeline_requests_total", "route", ROUTE), "{{route}}"),),
        ),
        Panel(
            title="Errors",
            about="Error responses per second, by route and code. 5xx consume the error budget.",
            unit=Unit.PER_SECOND,
            is_stacked=True,
            queries=(Query(or_zero(rate("ray_pipeline_errors_total", "route, code", ROUTE)), "{{route}} {{code}}"),),
        ),
        Panel(
            title="Rejections by reason",
            about="Requests rejected by overload or a missing model; each response has a Retry-After.",
            unit=Unit.PER_SECOND,
            is_stacked=True,
            queries=(Query(or_zero(rate("ray_pipeline_errors_total", "code", REFUSALS)), "{{code}}"),),
        ),
        Panel(
            title="End to end",
            about="Request latency of the selected routes.",
            unit=Unit.SECONDS,
            queries=quantiles("ray_pipeline_request_seconds", where=ROUTE),
        ),
        Panel(
            title="End to end p95 by route",
            about="Request latency, by route.",
            unit=Unit.SECONDS,
            queries=quantiles("ray_pipeline_request_seconds", "route", ROUTE, only=(0.95,)),
        ),
        Panel(
            title="Time to first preview",
            about="From a job's acceptance to its first preview, of jobs whose client takes previews.",
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
                about="Duration of each stage, including the wait for a worker.",
                unit=Unit.SECONDS,
                queries=quantiles("ray_pipeline_stage_seconds", "stage", only=(q,)),
            )
            for q in (0.5, 0.95, 0.99)
        ),
        Panel(
            title="Denoising steps",
            about="Denoising steps per second, of all images and replicas.",
            unit=Unit.PER_SECOND,
            queries=(Query(rate("ray_pipeline_engine_steps_total"), "steps"),),
        ),
        Panel(
            title="Batch occupancy",
            about="Share of the UNet's rows that hold an image. Low under load: many sizes, or too many replicas.",
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
            about="Stages retried within five minutes because their worker died. The usual cause is memory.",
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
            about="Queue time of jobs, from acceptance to start. The first to grow when capacity is short.",
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
            about="Jobs without a worker, calls that wait for a replica, and work in flight at the ingress.",
            unit=Unit.COUNT,
            queries=(
                Query('max(pipeline_store_jobs{state="queued"})', "jobs queued"),
                Query("sum by (deployment) (ray_serve_deployment_queued_queries)", "calls for {{deployment}}"),
                Query("sum by (gate) (ray_pipeline_in_hand)", "{{gate}} in hand"),
            ),
        ),
        Panel(
            title="Jobs by state",
            about="All stored jobs by state. Dead ones lost their worker three times.",
            unit=Unit.COUNT,
            queries=(Query("max by (state) (pipeline_store_jobs)", "{{state}}"),),
        ),
        Panel(
            title="Age of the oldest job",
            about="Age of the oldest job that hasn't ended.",
            unit=Unit.SECONDS,
            limit=300,
            queries=(Query("max by (state) (pipeline_store_oldest_job_age_seconds)", "{{state}}"),),
        ),
        Panel(
            title="Webhook backlog",
            about="Deliveries that are due, and those that no receiver accepted.",
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
            about="Hit rate of the shared cache, and the share of all results that were reused.",
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
            about="Reused results by source: the replica's memory, the shared cache, a run in progress, the store.",
            unit=Unit.PER_SECOND,
            is_stacked=True,
            queries=(Query(rate("ray_pipeline_results_reused_total", "source"), "{{source}}"),),
        ),
        Panel(
            title="Single-flight waits",
            about="Single flight: calls per second that waited for the computation of another one.",
            unit=Unit.PER_SECOND,
            queries=(
                Query(or_zero(rate("ray_pipeline_cache_waits_total")), "of another replica"),
                Query(or_zero(rate("ray_pipeline_results_reused_total", where='source="run"')), "of the same replica"),
            ),
        ),
        Panel(
            title="Cache size",
            about="Size of the cache, over all shards.",
            unit=Unit.BYTES,
            queries=(Query("sum(ray_pipeline_cache_bytes)", "kept"),),
        ),
        Panel(
            title="Evictions",
            about="Evictions per second. If steady, `cache.max_bytes` is too small.",
            unit=Unit.PER_SECOND,
            queries=(Query(or_zero(rate("ray_pipeline_cache_evictions_total")), "evicted"),),
        ),
        Panel(
            title="Cache bypassed",
            about="Cache calls that timed out. The work continued without the cache, possibly twice.",
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
            about="Stored images.",
            unit=Unit.COUNT,
            queries=(Query("max(pipeline_store_images)", "images"),),
        ),
        Panel(
            title="Bytes stored",
            about="Size of the stored images, and free space of the data folder's disk.",
            unit=Unit.BYTES,
            queries=(
                Query("max(pipeline_store_image_bytes)", "images"),
                Query("min(pipeline_disk_free_bytes)", "free on the disk"),
            ),
        ),
        Panel(
            title="Events",
            about="Logged events per second: jobs submitted, started and ended; images created and deleted.",
            unit=Unit.PER_SECOND,
            queries=(Query("max(rate(pipeline_store_events_logged_total[$__rate_interval]))", "logged"),),
        ),
    ),
)

PIPELINE = Board(
    uid="ai-pipeline",
    title="Pipeline",
    about="The image pipeline's requests, latencies, queues and stored data.",
    rows=(REQUESTS, STAGES, QUEUES, CACHE, KEPT),
    has_routes=True,
)

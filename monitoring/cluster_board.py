"""The cluster dashboard: replicas, their resource usage, and the machines' free resources."""

from __future__ import annotations

from monitoring.panels import Board, Panel, Query, Row, Unit, growth

# Ray names a process after its current task; the deployment's name is followed by the method.
BY_DEPLOYMENT = 'label_replace({}, "deployment", "$1", "Component", "ray::ServeReplica:[^:]+:(\\\\w+).*")'
RAYS_OWN = (
    'ray_component_rss_bytes{Component=~"ray::(ServeController|ProxyActor|SegmentationCache|EventHub).*|gcs|raylet"}'
)
REPLICAS = 'Component=~"ray::ServeReplica:.+"'


def _of_replicas(metric: str) -> str:
    labelled = BY_DEPLOYMENT.format(f"{metric}{{{REPLICAS}}}")
    return f"sum by (deployment) ({labelled})"


AUTOSCALING = Row(
    title="Replicas",
    panels=(
        Panel(
            title="Replicas running",
            about="Replicas that report. Fewer than the target for long: no room, or replicas fail to start.",
            unit=Unit.COUNT,
            queries=(Query("count by (deployment) (ray_serve_replica_processing_queries)", "{{deployment}}"),),
        ),
        Panel(
            title="Replicas wanted",
            about="The controller's target.",
            unit=Unit.COUNT,
            queries=(Query("max by (deployment) (ray_serve_autoscaling_target_replicas)", "{{deployment}}"),),
        ),
        Panel(
            title="Autoscaling decisions",
            about="What the load requires, before minimum and maximum. Above the target: the maximum limits it.",
            unit=Unit.COUNT,
            queries=(Query("max by (deployment) (ray_serve_autoscaling_desired_replicas)", "{{deployment}}"),),
        ),
        Panel(
            title="Calls in progress",
            about="Ongoing requests of all replicas of a deployment.",
            unit=Unit.COUNT,
            queries=(Query("sum by (deployment) (ray_serve_replica_processing_queries)", "{{deployment}}"),),
        ),
        Panel(
            title="Utilisation of replicas",
            about="Ongoing requests relative to their maximum, over ten minutes, mean over a deployment's replicas.",
            unit=Unit.PERCENT,
            queries=(Query("avg by (deployment) (ray_serve_replica_utilization_percent)", "{{deployment}}"),),
        ),
        Panel(
            title="Replica starts",
            about="In the last hour. More than the autoscaler requested means that replicas die.",
            unit=Unit.COUNT,
            queries=(Query(growth("ray_serve_deployment_replica_starts_total", "1h", "deployment"), "{{deployment}}"),),
        ),
    ),
)

MEMORY = Row(
    title="Memory",
    panels=(
        Panel(
            title="CPU memory by deployment",
            about="Resident memory of all replicas.",
            unit=Unit.BYTES,
            is_stacked=True,
            queries=(Query(_of_replicas("ray_component_rss_bytes"), "{{deployment}}"),),
        ),
        Panel(
            title="GPU memory by deployment",
            about="GPU memory reserved by torch, of all replicas; 0 on CPUs.",
            unit=Unit.BYTES,
            is_stacked=True,
            queries=(Query("sum by (deployment) (ray_pipeline_replica_gpu_bytes)", "{{deployment}}"),),
        ),
        Panel(
            title="GPU memory allowed",
            about="GPU memory limit of all replicas of a deployment: their fraction of the card. 0 on CPUs.",
            unit=Unit.BYTES,
            queries=(Query("sum by (deployment) (ray_pipeline_replica_gpu_limit_bytes)", "{{deployment}}"),),
        ),
        Panel(
            title="Object store",
            about="Shared memory that images are passed in. Spilled bytes: it was too small.",
            unit=Unit.BYTES,
            queries=(
                Query("sum(ray_object_store_used_memory)", "used"),
                Query("sum(ray_object_store_available_memory)", "free"),
                Query('sum(ray_object_store_memory{Location="SPILLED"})', "spilled"),
            ),
        ),
        Panel(
            title="Node memory used",
            about="Memory in use on each machine.",
            unit=Unit.SHARE,
            limit=0.9,
            queries=(Query("ray_node_mem_used / ray_node_mem_total", "{{ip}}"),),
        ),
        Panel(
            title="Memory of Ray's own",
            about="CPU of the controller, proxies, cache and event hub.",
            unit=Unit.BYTES,
            queries=(
                Query(
                    f'sum by (part) (label_replace({RAYS_OWN}, "part", "$1", "Component", "(?:ray::)?(\\\\w+).*"))',
                    "{{part}}",
                ),
            ),
        ),
    ),
)

MACHINES = Row(
    title="Machines",
    panels=(
        Panel(
            title="CPU utilisation",
            about="CPU in use on each machine.",
            unit=Unit.PERCENT,
            limit=95,
            queries=(Query("ray_node_cpu_utilization", "{{ip}}"),),
        ),
        Panel(
            title="GPU utilisation",
            about="Utilization of each card; 0 without one.",
            unit=Unit.PERCENT,
            queries=(Query("ray_node_gpus_utilization or vector(0)", "{{ip}} {{GpuIndex}}"),),
        ),
        Panel(
            title="CPUs and GPUs by Ray's books",
            about="Reserved by replicas, and free. With none free new replicas wait indefinitely.",
            unit=Unit.COUNT,
            queries=(Query('sum by (Name, State) (ray_resources{Name=~"CPU|GPU"})', "{{Name}} {{State}}"),),
        ),
        Panel(
            title="Disk free",
            about="Free share of each machine's disk.",
            unit=Unit.SHARE,
            queries=(
                Query("1 - ray_node_disk_utilization_percentage / 100", "{{ip}}"),
                Query("min(pipeline_disk_free_bytes / pipeline_disk_size_bytes)", "data folder"),
            ),
        ),
        Panel(
            title="Network",
            about="Bytes per second of each machine.",
            unit=Unit.BYTES,
            queries=(
                Query("ray_node_network_receive_speed", "{{ip}} in"),
                Query("ray_node_network_send_speed", "{{ip}} out"),
            ),
        ),
        Panel(
            title="Nodes",
            about="Machines of the cluster.",
            unit=Unit.COUNT,
            queries=(Query("max(ray_cluster_active_nodes)", "alive"),),
        ),
    ),
)

CLUSTER = Board(
    uid="ai-pipeline-cluster",
    title="Cluster",
    about="Replicas, the resources they use, and what the machines have left.",
    rows=(AUTOSCALING, MEMORY, MACHINES),
)

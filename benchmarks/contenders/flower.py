"""The same rounds in Flower's simulation engine, on Ray: stock ``FedAvg``, one CPU a client.

Set up as kindly as it goes: there are as many workers as cores. What is left beside the app's own
work is messages, their serialization, Ray, and one aggregation a round.
"""

from contenders.flower_rounds.rounds_app import client_app, server_app
from contenders.jobs import Job
from flwr.simulation import run_simulation


def main() -> None:
    """Run the job."""
    job = Job.of_command()
    gpus = 0.0 if job.device == "cpu" else 1.0
    run_simulation(
        server_app=server_app(job),
        client_app=client_app(job),
        num_supernodes=job.workload.cohort,
        backend_config={
            "init_args": {"num_cpus": job.workers, "num_gpus": int(gpus)},
            "client_resources": {"num_cpus": 1, "num_gpus": gpus / job.workers},
        },
    )


if __name__ == "__main__":
    main()

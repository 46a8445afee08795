"""Run on a SLURM cluster: every job brings worker processes, the driver runs where this is started.

    python workflows/slurm.py --jobs 40 --cores 16 --memory 64GB --walltime 08:00:00 -- \
        run --region philippines --years 2018-2023 --out /scratch/me/philippines --yes

Needs `pip install dask-jobqueue`, and a run folder that all nodes see (a shared disk, or s3://...). `--dry-run` prints
the job script and the command, and submits nothing. A job whose time is up is replaced and its blocks are repeated; if
the driver itself is ended, the same command goes on where it stopped. They talk by TLS, with a certificate in
`slurm-logs/certificates` that only you can read; keep that folder where all nodes see it (`--certificates`).
"""

import argparse
import os
import shlex
import subprocess
import sys
from pathlib import Path

import certificates


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=10, help="largest number of jobs at a time")
    parser.add_argument("--cores", type=int, default=16, help="cores per job, with one worker process each")
    parser.add_argument(
        "--memory", default="64GB", help="memory per job; `subpixmap plan` shows the memory of a worker"
    )
    parser.add_argument("--walltime", default="04:00:00")
    parser.add_argument("--queue", help="SLURM partition")
    parser.add_argument("--account")
    parser.add_argument("--gpus", type=int, default=0, help="GPUs per job, with one worker process each")
    parser.add_argument(
        "--certificates", type=Path, default=Path("slurm-logs/certificates"), help="folder of the TLS certificates"
    )
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="-- and a subpixmap command")
    asked = parser.parse_args()
    command = [word for word in asked.command if word != "--"]
    if not command:
        parser.error("a subpixmap command is missing, such as: -- run --region philippines --years 2018-2023")
    try:
        from dask_jobqueue.slurm import SLURMCluster
    except ImportError as error:
        print(f"slurm.py: {error}; pip install dask-jobqueue", file=sys.stderr)
        return 2
    import dask
    from distributed.security import Security

    os.environ |= certificates.environment(*certificates.make(asked.certificates))
    dask.config.refresh()
    processes = asked.gpus or asked.cores
    cluster = SLURMCluster(
        cores=processes,
        processes=processes,
        job_cpu=asked.cores,
        memory=asked.memory,
        walltime=asked.walltime,
        queue=asked.queue,
        account=asked.account,
        python=sys.executable,
        worker_command="dask_cuda.cli worker" if asked.gpus else "distributed.cli.dask_worker",
        job_extra_directives=[f"--gres=gpu:{asked.gpus}"] if asked.gpus else [],
        log_directory="slurm-logs",
        protocol="tls://",
        security=Security(),
        scheduler_options={"dashboard_address": "127.0.0.1:0"},
    )
    with cluster:
        print(cluster.job_script(), file=sys.stderr)
        device = ["--device", "cuda"] if asked.gpus else []
        options = [*device, "--scheduler", cluster.scheduler_address]
        if asked.dry_run:
            print(shlex.join(["subpixmap", *command, *options]))
            return 0
        cluster.adapt(minimum_jobs=1, maximum_jobs=asked.jobs)
        # Jobs may wait long in the queue, all of them at once.
        environment = {"DASK_SUBPIXMAP__WAIT_FOR_WORKERS": "24h"} | os.environ
        return subprocess.run([sys.executable, "-m", "subpixmap", *command, *options], env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Train on several machines or in several processes: run a command as the workers of MXNet's parameter server.

  launch.py --workers 2 -- python train_seg_model.py --model init --gpus cpu --kv-store dist_sync
  launch.py --hosts hosts.txt -- python train_seg_model.py --model init --gpus 0,1,2,3 --kv-store dist_sync
  launch.py --slurm -- ...        in a job of sbatch or salloc

The batch size, and so the learning rate, is that of the whole job: with --batch-size 16, 2 workers with 4 GPUs each
take 2 images per GPU and compute the same step as one worker with 8 GPUs. All hosts need the project, its Python and
the data at the same paths, for example in a shared folder. The worker of rank 0 logs and saves. When a process of the
job dies, the job ends. MXNet's servers have no passwords: use them only in a trusted network.
"""
import argparse

from core.cli import Parser, positive, run


def main() -> None:
    from core.training.cluster import launch, run_node, serve
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
                    usage="launch.py [--hosts FILE | --slurm] [--workers N] -- COMMAND ...")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--hosts", metavar="FILE", help="host names, one a line, reached by ssh without a password "
                       "(default: this machine only)")
    where.add_argument("--slurm", action="store_true", help="the machines of this Slurm job, reached by srun")
    where.add_argument("--node", help=argparse.SUPPRESS)  # what launch.py starts on every machine
    where.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)  # scheduler or server
    parser.add_argument("--workers", type=positive, default=1, metavar="N",
                        help="worker processes per machine (default: %(default)s, with all of its GPUs)")
    parser.add_argument("--servers", type=positive, default=1, metavar="N",
                        help="server processes per machine, which sum the gradients (default: %(default)s)")
    parser.add_argument("--address", metavar="IP", help="address at which the other machines reach this one "
                        "(default: that of the route to them)")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND", help="what each worker runs")
    args = parser.parse_args()
    if args.serve:
        serve()
    if args.node:
        run_node(args.node)
        return
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not command:
        parser.error("no command: launch.py --workers 2 -- python train_seg_model.py ... --kv-store dist_sync")
    launch(command, args.hosts, args.slurm, args.workers, args.servers, args.address)


if __name__ == "__main__":
    run(main, "with --resume in the command, training continues after the last snapshot")

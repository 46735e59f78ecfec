"""`dfml evaluate`: accuracy of learners on unseen classes, compared in pairs."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dfml.cli.options import (
    MAX_RESIDENT,
    CalibrationOption,
    DeviceOption,
    JsonOption,
    MaxResidentOption,
    NetworksOption,
    OnBadMemberOption,
    Protocol,
    SeedOption,
    SplitsOption,
    ThreadsOption,
    prepare_torch,
    read_networks,
)
from dfml.cli.output import Output, require_writable, say_left_out
from dfml.errors import UsageError

if TYPE_CHECKING:
    from dfml.evaluation.protocol import Evaluation


def evaluate(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="LEARNER... DATA...",
            help="One or more learners, then one or more data sets. A learner is a folder from `dfml train`, a "
            "snapshot of a run (RUN/snapshots/N), or METHOD:ZOO for a method with little or no training "
            "(zoo_embedding:ZOO). A data set is an image folder, a zip of one, or glyphs (rendered letters).",
        ),
    ],
    split: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Part of the data: train, val or test. Default: test, or all of undivided data."
        ),
    ] = None,
    splits: SplitsOption = None,
    way: Annotated[int, typer.Option(min=2, metavar="N", help="Classes per episode.")] = 5,
    shot: Annotated[int, typer.Option(min=1, metavar="N", help="Support images per class.")] = 1,
    query: Annotated[int, typer.Option(min=1, metavar="N", help="Query images per class.")] = 15,
    episodes: Annotated[
        int, typer.Option(min=2, metavar="N", help="Number of episodes, the same for all learners.")
    ] = 600,
    protocol: Annotated[
        Protocol,
        typer.Option(
            help="strict: a prediction depends on no other query image. paper: query images share batch "
            "statistics, and the best snapshot of a run counts.",
        ),
    ] = "strict",
    allow_other_protocol: Annotated[
        bool,
        typer.Option("--allow-other-protocol", help="Also evaluate learners that were trained for the other protocol."),
    ] = False,
    snapshots: Annotated[
        bool,
        typer.Option(
            "--snapshots",
            help="Also evaluate all snapshots of each run, for the learning curves of --report FILE.html. The learner "
            "counts as without it; by the protocol paper, snapshots are evaluated anyway.",
        ),
    ] = False,
    calibration: CalibrationOption = None,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Also write the results to FILE: tables (.html, .md), or one row per learner (.csv)."
        ),
    ] = None,
    network: NetworksOption = None,
    on_bad_member: OnBadMemberOption = "fail",
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    max_resident: MaxResidentOption = MAX_RESIDENT,
    json_file: JsonOption = None,
) -> None:
    """Measure accuracy on unseen classes, with a 95% confidence interval.

    Several learners are compared in pairs on the same episodes. On several data sets, the table has each of them and
    their mean.
    """
    output = Output(json_file)
    if report:
        require_writable("--report", report)
    prepare_torch(threads)
    from dfml import open_learner
    from dfml.cli.datasets import open_data, require_data, split_sources
    from dfml.evaluation.protocol import require_evaluable
    from dfml.evaluation.runner import applicable_calibrations, distinct_names, evaluate_learner
    from dfml.report.comparison import check_ending, write_comparison
    from dfml.report.domains import domain_means, domains_table
    from dfml.report.html_page import describe_episodes
    from dfml.report.results import evaluated_values
    from dfml.report.table import compare_all, differences_table, results_table, to_rich
    from dfml.training.progress import show_progress

    if report:
        check_ending(report)
    names, data = split_sources(sources)
    if not names:
        raise UsageError("expected at least one learner and then the data: dfml evaluate LEARNER... DATA...")
    for each in data:
        require_data(each)
    settings: dict[str, Any] = {"way": way, "shot": shot, "protocol": protocol, "seed": seed}
    networks = read_networks(network)
    _require_known(networks, names)
    zoos: dict[str, Any] = {
        "networks": networks,
        "on_bad_member": on_bad_member,
        "on_left_out": lambda left_out: say_left_out(output, left_out),
        "max_resident": max_resident,
    }
    learners = [open_learner(name, device, **settings, progress=show_progress, **zoos) for name in names]
    sizes = sorted({learner.preprocessing.size for learner in learners})
    images = {
        (each, size): open_data(each, split=split, usual="test", official=splits, size=size)
        for each in data
        for size in sizes
    }
    if len({dataset.name for dataset in images.values()}) < len(data):
        raise UsageError("expected data sets of different names, which head the columns; rename a folder")
    for learner in learners:
        for each in data:
            dataset = images[each, learner.preprocessing.size]
            require_evaluable(learner, dataset, way, shot, query, protocol, allow_other_protocol=allow_other_protocol)
    evaluated = [
        evaluate_learner(
            learner,
            label,
            Path(name),
            images[each, learner.preprocessing.size],
            way=way,
            shot=shot,
            query=query,
            episodes=episodes,
            seed=seed,
            protocol=protocol,
            allow_other_protocol=allow_other_protocol,
            calibration=chosen,
            snapshots=snapshots,
        )
        for each in data
        for learner, name, label in zip(learners, names, distinct_names(learners, names), strict=True)
        for chosen in applicable_calibrations(learner, learners, calibration)
    ]
    evaluations = [each.evaluation for each in evaluated]
    means = domain_means(evaluations)
    output.say(describe_episodes(means[0]))
    output.show(to_rich(results_table(means) if len(data) == 1 else domains_table(evaluations)))
    if len(means) > 1:
        output.say("Paired differences on the same episodes:")
        output.show(to_rich(differences_table(compare_all(means))))
    output.results(evaluated_values(evaluated))
    if report:
        curves = {_curve_name(each.evaluation, data): each.curve for each in evaluated if each.curve}
        command = shlex.join(["dfml", *sys.argv[1:]])
        write_comparison(report, evaluations, curves, command)
        output.say(f"report: {report}")


def _require_known(networks: Mapping[str, str], names: list[str]) -> None:
    """Check that every member that `--network` names is in the manifest of a zoo of `METHOD:ZOO`.

    Raises:
        UsageError: If one is not.
    """
    if not networks:
        return
    from dfml.methods.open_learner import owner_network_names, zoo_of

    known = set().union(*(owner_network_names(zoo) for name in names if (zoo := zoo_of(name))))
    unknown = ", ".join(sorted(networks.keys() - known))
    if unknown:
        raise UsageError(f"--network: no zoo of a METHOD:ZOO has a member {unknown} in its zoo.yaml; check the names")


def _curve_name(evaluation: Evaluation, data: list[str]) -> str:
    return evaluation.name if len(data) == 1 else f"{evaluation.name}, {evaluation.dataset}"

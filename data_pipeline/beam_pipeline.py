# SPDX-License-Identifier: Apache-2.0
"""Independent tasks as an Apache Beam pipeline: on this machine, Dataflow, Flink or Spark.

Only descriptions of tasks go through the pipeline; workers read their input and write their output
themselves. So no runner has to keep data in memory, and a task done twice does no harm.
"""

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import as_completed
from typing import Any

from data_pipeline import workers

# Beam complains of parts of itself that are not installed.
logging.disable(logging.WARNING)
import apache_beam as beam  # noqa: E402
from apache_beam.options.pipeline_options import PipelineOptions  # noqa: E402
from apache_beam.runners.portability.fn_api_runner import FnApiRunner  # noqa: E402

logging.disable(logging.NOTSET)


class _InWorkerProcesses(beam.DoFn):
    """Hands tasks to the `worker_processes` of this machine as they become free."""

    def start_bundle(self) -> None:
        self._running: list[Any] = []

    def process(self, task: Any) -> None:
        self._running.append(workers.submit(task))

    def finish_bundle(self) -> None:
        for future in as_completed(self._running):
            future.result()


def run_tasks(
    tasks: Sequence[Any],
    work: Callable[[Any], None],
    *,
    notes: str,
    processes: int,
    beam_options: Sequence[str] = (),
) -> None:
    """Does `work(task)` for each task, in no particular order.

    Args:
        tasks: small descriptions, each with a `number`.
        work: a picklable callable; done twice for a task, it must leave the same.
        notes: a directory in which workers leave word of what went wrong.
        processes: on this machine; 1 is this process. Not used with `beam_options`.
        beam_options: Beam's own, such as --runner=DataflowRunner; none runs here.

    Raises:
        UserError: the first one that a task raised.
        Preempted: a worker process was killed.
    """
    if not tasks:
        return
    if not beam_options:
        # Beam would print pages about an error that the command tells in a line.
        logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
    attempt = workers.Attempt(work, notes)
    runner = None if beam_options else FnApiRunner()
    pipeline = beam.Pipeline(runner, PipelineOptions(list(beam_options)))
    source = pipeline | "Tasks" >> beam.Create(tasks) | beam.Reshuffle()
    try:
        if processes > 1 and not beam_options:
            source | "Work" >> beam.ParDo(_InWorkerProcesses())
            with workers.worker_processes(min(processes, len(tasks)), attempt):
                pipeline.run().wait_until_finish()
        else:
            source | "Work" >> beam.Map(attempt)
            pipeline.run().wait_until_finish()
    except Exception as error:
        noted = workers.noted_error(notes)
        if noted is None:
            raise
        raise noted from error

"""An audit from beginning to end: settings, source, engine, parts, summary."""

import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

from gradcam_multi.audit.extras import require
from gradcam_multi.errors import AuditError, InputError, suggest
from gradcam_multi.preprocess import Preprocess

if TYPE_CHECKING:  # pyarrow is imported when an audit is asked for
    from gradcam_multi.audit.result import Audit

Engine = Literal["local", "ray"]
ENGINES = ("local", "ray")


def audit(
    model: Any,
    source: Any,
    output: str | os.PathLike[str] | None = None,
    *,
    preprocess: str | Preprocess = "imagenet",
    labels: Sequence[str] | None = None,
    target: Any = None,
    layer: str | Sequence[str] | None = None,
    method: str = "gradcam",
    backend: str | None = None,
    model_output: str | None = None,
    guided: bool = False,
    trust: bool = False,
    grid: Sequence[int] | None = None,
    top: int = 0,
    image_column: str | None = None,
    label_column: str | None = None,
    box_column: str | None = None,
    folder_labels: bool = False,
    engine: Engine = "local",
    workers: int | None = None,
    ray_address: str | None = None,
    part: int | None = None,
    batch: int | None = None,
    retry_failed: bool = False,
    progress: bool | None = None,
    name: str | None = None,
) -> "Audit | Any":
    """Explain every picture of a source; keep maps, scores and figures as Parquet, and sum them up.

    `model`, `layer`, `method`, `backend`, `guided`, `trust`, `grid` and `labels` are those of
    `Explainer`, `model_output` its `output`; `target` is one for all pictures. `source` is a
    folder, a glob pattern, a CSV or Parquet file, a WebDataset tar, or a list of paths; `output`
    the folder for the parts. Boxes are (left, top, right, bottom) in pixels. What is on disk
    already, made with the same settings, is not done again; `retry_failed` does the parts again in
    which pictures failed. `top` keeps maps of so many of the highest classes too. `workers` are
    threads (local), as many as cores unless given, or actors (ray), `part` the pictures of a part,
    `batch` those at once in the model (left out: 4 of 224 x 224, more of smaller ones or on a GPU).
    `progress` is a bar, None for one where stderr is a terminal.

    A Ray Dataset as `source`, with a column of pictures (bytes, paths or arrays), gives a Ray
    Dataset with the audit's columns, and `output` is left out.

    Raises AuditError for a folder that cannot be written or resumed, ImageError for a source
    without pictures, MissingExtraError without pyarrow or Ray, and what `Explainer` raises.
    """
    require("pyarrow", "audit")
    from gradcam_multi.audit.listed import Columns
    from gradcam_multi.audit.settings import PART, Settings

    if engine not in ENGINES:
        raise InputError(
            f"engine {engine!r} was asked for{suggest(str(engine), ENGINES)}; there are "
            f"{' and '.join(ENGINES)}"
        )
    for what, value in {"part": part, "batch": batch, "workers": workers}.items():
        if value is not None and value < 1:
            raise InputError(f"{what} {value} was asked for: give at least 1")
    if top < 0:
        raise InputError(f"top {top} was asked for: give 0 or how many classes")
    settings = Settings(
        preprocess=(
            preprocess if isinstance(preprocess, Preprocess) else Preprocess.named(preprocess)
        ),
        target=target,
        layer=layer,
        method=method,
        backend=backend,
        output=model_output,
        labels=None if labels is None else tuple(labels),
        guided=guided,
        trust=trust,
        grid=None if grid is None else tuple(grid),
        top=top,
        part=part or PART,
        batch=batch,
    )
    columns = Columns(image_column, label_column, box_column)
    called = name or (str(model) if isinstance(model, (str, os.PathLike)) else "the model")
    if type(source).__module__.startswith("ray.data"):
        from gradcam_multi.audit.by_ray import examined

        return examined(model, source, settings, columns, called, workers)
    if output is None:
        raise AuditError("no output was given: name the folder that the parts are written to")
    return _to_folder(
        model,
        source,
        output,
        settings,
        columns,
        called,
        folder_labels=folder_labels,
        engine=engine,
        workers=workers,
        ray_address=ray_address,
        retry_failed=retry_failed,
        progress=progress,
    )


def _to_folder(
    model: Any,
    given: Any,
    output: str | os.PathLike[str],
    settings: Any,
    columns: Any,
    called: str,
    *,
    folder_labels: bool,
    engine: Engine,
    workers: int | None,
    ray_address: str | None,
    retry_failed: bool,
    progress: bool | None,
) -> "Audit":
    from gradcam_multi.audit.examiner import Examiner, cores
    from gradcam_multi.audit.folder import SUMMARY, Folder
    from gradcam_multi.audit.result import Audit
    from gradcam_multi.audit.schema import to_bytes
    from gradcam_multi.audit.settings import model_record, source_record
    from gradcam_multi.audit.sources import open_source
    from gradcam_multi.audit.summary import summarise

    if engine == "ray":
        require("ray", "scale")
    source = open_source(given, columns=columns, folder_labels=folder_labels)
    examiner = Examiner(model, settings, called, workers or cores())
    check_labels(examiner, source.labels())
    record = {
        **settings.record(),
        "model": model_record(model, called, examiner.probe),
        "source": {
            **source_record(source, given),
            "columns": [columns.image, columns.label, columns.box],
            "folder_labels": folder_labels,
        },
        "map": list(examiner.grid),
    }
    folder = Folder(output)
    size = settings.part
    ranges = {
        number: range(start, min(start + size, len(source)))
        for number, start in enumerate(range(0, len(source), size))
    }
    with folder.begun(record):
        done = folder.done({number: len(part) for number, part in ranges.items()})
        if retry_failed:
            done = {number: failed for number, failed in done.items() if not failed}
        todo = [(number, part) for number, part in ranges.items() if number not in done]
        with _bar(len(source), sum(len(ranges[number]) for number in done), progress) as bar:
            made = _tables(engine, examiner, model, source, todo, workers, ray_address, bar.update)
            for number, table in made:
                failed = table.num_rows - table["error"].null_count
                about = {"part": number, "failed": failed}
                folder.write(folder.part(number).name, to_bytes(table, about))
        absent = len(ranges) - len(folder.done({n: len(part) for n, part in ranges.items()}))
        if absent:
            raise AuditError(
                f"{absent} of {len(ranges)} parts were not made by the engine {engine}: run the "
                "same command again"
            )
        folder.write_json(SUMMARY, summarise(folder))
    return Audit(folder)


def _tables(
    engine: Engine,
    examiner: Any,
    model: Any,
    source: Any,
    todo: Sequence[tuple[int, range]],
    workers: int | None,
    address: str | None,
    tick: Callable[[int], object],
) -> Iterator[tuple[int, Any]]:
    if not todo:
        return iter(())
    if engine == "ray":
        from gradcam_multi.audit.by_ray import tables

        return tables(model, examiner.settings, source, todo, workers, address, tick)
    found: Iterator[tuple[int, Any]] = examiner.tables(source, todo, tick)
    return found


def check_labels(examiner: Any, labels: set[str]) -> None:
    """Raise AuditError where a source has labels, and none of them is a class of the model."""
    classes = examiner.classes
    if not labels or classes == 1:
        return
    if all(examiner.reader.label_index(label, classes) is None for label in labels):
        some = ", ".join(map(repr, sorted(labels)[:3]))
        named = examiner.settings.labels is not None
        raise AuditError(
            f"the source's labels ({some}) are neither indices of the model's {classes} classes "
            f"nor among the class names{'' if named else ', of which none were given'}: "
            f"{'check' if named else 'give'} labels=... (--labels)"
        )


def _bar(total: int, done: int, progress: bool | None) -> Any:
    from tqdm import tqdm

    # disable=None: no bar where stderr is not a terminal.
    disable = None if progress is None else not progress
    return tqdm(total=total, initial=done, unit="picture", leave=False, disable=disable)

"""What a run over many images did, as its last lines say it."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from mrcnn.core.text import printable

MOST_ROWS = 10  # of each list that is printed


@dataclass
class Summary:
    """What `pipeline.run_images` did.

    Attributes:
        images: number of images found.
        processed: number of images with results, those of earlier runs included.
        resumed: how many of these were done before.
        detections: class name -> number of garments, in the order of the class ids.
        failures: (file name, reason) of each image that failed.
        passed_over: (file name, reason) of each file that is no image.
        kept: outdated files of earlier runs that were kept, as somebody has changed them.
        stopped: "" or what ended the run early.
        has_tables: whether the tables were written.
    """

    output_folder: Path
    images: int
    processed: int = 0
    resumed: int = 0
    detections: dict[str, int] = field(default_factory=dict)
    failures: list[tuple[str, str]] = field(default_factory=list)
    passed_over: list[tuple[str, str]] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    stopped: str = ""
    has_tables: bool = False

    @property
    def instances(self) -> int:
        """Number of garments in all images."""
        return sum(self.detections.values())

    def __str__(self) -> str:
        lines = [f"  {count:>6} {name}" for name, count in self.detections.items() if count]
        # Without failures.csv this is the only place where they are told.
        most, where = (MOST_ROWS, " (see failures.csv)") if self.has_tables else (None, "")
        for rows, text in ((self.failures, "failed"), (self.passed_over, "are no images")):
            named = [f"{name}: {why}" for name, why in rows]
            lines += _listed(f"{len(rows)} files {text}{where}:", named, most)
        if self.kept:
            text = "files of an earlier run were changed since, so they were kept:"
            lines += _listed(f"{len(self.kept)} {text}", self.kept, MOST_ROWS)
        if self.stopped:
            lines.append(f"{self.stopped}; continue with --resume")
        before = f", {self.resumed} of them before" if self.resumed else ""
        lines.append(
            f"{self.processed} of {self.images} images processed{before}, {self.instances} "
            f"garments found; results are in {self.output_folder}"
        )
        return "\n".join(map(printable, lines))


def _listed(head: str, rows: list[str], most: int | None) -> Iterable[str]:
    """Lines of a list with its head; none if it is empty."""
    if not rows:
        return
    yield head
    yield from (f"  {row}" for row in rows[:most])
    if most is not None and len(rows) > most:
        yield f"  ... and {len(rows) - most} more"

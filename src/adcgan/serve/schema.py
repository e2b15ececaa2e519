"""The shapes of the service's JSON, for its documentation and for clients."""

from __future__ import annotations

from pydantic import BaseModel, Field

from adcgan.scoring import ModelCard


class RegionRow(BaseModel):
    """An anomalous region of an image: adjoining pixels above the threshold."""

    left: int = Field(description="First column, in pixels of the upright photograph.")
    top: int = Field(description="First row.")
    width: int
    height: int
    area: int = Field(description="Pixels above the threshold.")
    peak: float = Field(description="The largest anomaly value.")
    peak_row: int
    peak_column: int


class ImageRow(BaseModel):
    """The result for one file; rows are in the order of the request."""

    name: str = Field(description="The file's name, as sent.")
    score: float | None = Field(description="Higher is more anomalous; null if there is no score.")
    p_value: float | None = Field(
        description="Share of normal images that score at least as high, in (0, 1]."
    )
    anomalous: bool | None = Field(description="Whether the score is above the threshold.")
    components: dict[str, float | None] | None = Field(description="The parts of the score.")
    error: str | None = Field(description="Why there is no score, in one line.")
    width: int | None = Field(
        None, description="With a heatmap: of the upright photograph, in pixels."
    )
    height: int | None = Field(None, description="Likewise.")
    heatmap: str | None = Field(
        None, description="With heatmap=true: a PNG in base64, at the model's size."
    )
    picture: str | None = Field(
        None, description="With heatmap=layers: what the model saw, a PNG in base64."
    )
    map: str | None = Field(
        None,
        description="With heatmap=layers: the anomaly map, a grey PNG in base64; 255 is "
        "heatmap_top and above.",
    )
    heatmap_top: float | None = Field(
        None, description="The anomaly value that gets the top colour."
    )
    regions: list[RegionRow] | None = Field(
        None,
        description="With a heatmap: where the image is anomalous, most anomalous first. A share "
        "fpr of normal images has any.",
    )


class ScoreAnswer(BaseModel):
    """The answer to a scoring request."""

    images: list[ImageRow]
    threshold: float = Field(description="An image is anomalous when its score is above it.")
    fpr: float | None = Field(
        description="The false-positive budget in force; null for a threshold by contamination."
    )
    warning: str | None = Field(
        description="Why the budget in force is not the one requested; else null."
    )


class ErrorAnswer(BaseModel):
    """Any answer that is not a success."""

    error: str
    images: list[ImageRow] | None = Field(
        None, description="If no image of the request could be read: the reason for each."
    )


class Calibration(BaseModel):
    """The scores of held-out normal images."""

    n: int
    quantiles: dict[str, float]
    scores: list[float] = Field(description="Ascending.")


class ModelAnswer(BaseModel):
    """The model, and the limits of the service."""

    detector: str
    image_size: int | None = Field(
        description="Side of what the model sees; with resize=keep the longest, or null for any."
    )
    channels: int
    resize: str
    n_train: int
    threshold: float
    fpr: float | None
    smallest_fpr: float = Field(description="The smallest budget that the calibration supports.")
    components: list[str]
    heatmaps: bool
    heatmap_colours: list[str] = Field(description="From cold to hot, evenly spaced.")
    heatmap_opacity: float = Field(description="Of the hottest pixel over the image.")
    calibration: Calibration
    versions: dict[str, str]
    card: ModelCard | None = Field(
        description="What the model learned from, how it decides and what it is not for; null for "
        "a file that was exported before there were cards."
    )
    limits: dict[str, float]


class DriftAnswer(BaseModel):
    """How the scores of the last images differ from those of held-out normal images."""

    n: int = Field(description="Images compared, 500 at most.")
    share_above: float | None = Field(
        description="Share of them above the model's own threshold; null if there are none."
    )
    statistic: float | None = Field(
        description="Kolmogorov-Smirnov statistic, in [0, 1]: how far apart the distributions are."
    )
    p_value: float | None = Field(
        description="Chance of a statistic as large if the images are like the held-out ones."
    )
    warning: str | None = Field(
        description="One line, given 20 images or more and a p-value below 0.001; else null."
    )


class StatusAnswer(BaseModel):
    """The answer of a health check."""

    status: str

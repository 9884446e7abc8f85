"""What the trainer knows of a model before it is exported. The exporter adds what only it can measure."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from engine.scoring.manifest import (
    Attribution,
    Calibration,
    ExportCheck,
    FeatureInput,
    GoldenRow,
    Manifest,
    PsiReference,
    ReasonGroup,
    Scaling,
    TrainingData,
)


class ReferenceDraft(BaseModel):
    """Name and description of the reference population; its size and hash are taken from the rows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    description: str


class ManifestDraft(BaseModel):
    """A `Manifest` without attribution, golden rows and export check.

    `kind` may be left empty: the exporter sees which library made the model. `libraries` is completed with the
    versions the exporter itself ran with; what the trainer wrote there stays. `psi_reference` may be left out: the
    exporter then takes it from the training rows and the model's points (`bins.psi_reference`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    version: str
    kind: str = ""
    component: Literal["credit", "fraud"]
    title: str
    target: str
    created: str
    git_commit: str = ""
    features: tuple[FeatureInput, ...] = Field(min_length=1)
    reference: ReferenceDraft
    calibration: Calibration = Calibration(method="none")
    scaling: Scaling | None = None
    reasons: tuple[ReasonGroup, ...]
    training: TrainingData
    metrics: dict[str, float]
    psi_reference: PsiReference | None = None
    libraries: dict[str, str] = Field(default_factory=dict)
    licence: str
    intended_use: str
    limitations: str
    excluded_attributes: tuple[str, ...] = ()

    def complete(
        self,
        *,
        kind: str,
        psi_reference: PsiReference,
        attribution: Attribution,
        golden_rows: tuple[GoldenRow, ...],
        export_check: ExportCheck,
        libraries: dict[str, str],
    ) -> Manifest:
        """The manifest of the exported file, with the `psi_reference` given here.

        Raises pydantic's ValidationError when the parts do not fit together.
        """
        own = self.model_dump(exclude={"kind", "reference", "libraries"})
        return Manifest.model_validate(
            own
            | {
                "kind": kind,
                "psi_reference": psi_reference,
                "attribution": attribution,
                "golden_rows": golden_rows,
                "export_check": export_check,
                "libraries": dict(sorted((libraries | self.libraries).items())),
            }
        )

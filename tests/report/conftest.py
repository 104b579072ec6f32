"""Most tests of reports need no drawn figures, which take most of the time."""

import pytest

from lightning_vi.report import markup


@pytest.fixture(autouse=True)
def blank_figures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves figures undrawn, except in tests with the fixture `drawn`."""
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr(markup, "_figure_uri", lambda figure, transparent: "data:image/svg+xml;base64,")


@pytest.fixture
def drawn() -> None:
    """Figures are drawn."""

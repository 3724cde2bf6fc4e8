from html.parser import HTMLParser

import numpy as np
from PIL import Image

from jaxtok.inspect.sweep_page import write_sweep_page


class Cells(HTMLParser):
    """The texts of all cells, and the sources of all pictures."""

    def __init__(self):
        super().__init__()
        self.rows, self.sources, self.open = [], [], False

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self.open = True
        elif tag == "img":
            self.sources.append(dict(attrs)["src"])

    def handle_endtag(self, tag):
        self.open = self.open and tag not in ("td", "th")

    def handle_data(self, data):
        if self.open:
            self.rows[-1][-1] += data


def test_every_trial_is_a_row_and_every_picture_is_inside(tmp_path):
    image = tmp_path / "a.png"
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(image)
    trials = [
        {"trial": 3, "state": "complete", "value": 0.51234, "fit.learning_rate": 1e-3, "error": ""},
        {"trial": 1, "state": "fail", "value": "", "fit.learning_rate": -1.0, "error": "rate <b>is</b> -1"},
    ]
    path = tmp_path / "there" / "sweep.html"
    write_sweep_page(path, "a & b", trials, {"lines": image.read_bytes()})
    page = path.read_text(encoding="utf-8")
    cells = Cells()
    cells.feed(page)
    assert cells.rows[0] == [*trials[0]]
    assert cells.rows[1] == ["3", "complete", "0.51234", "0.001", "–"]
    assert cells.rows[2] == ["1", "fail", "–", "-1", "rate <b>is</b> -1"]
    assert len(cells.sources) == 1 and cells.sources[0].startswith("data:image/png;base64,")
    assert "<b>" not in page and "a &amp; b" in page and "default-src 'none'" in page
    assert not list(path.parent.glob("*.partial"))


def test_a_sweep_without_trials_says_so(tmp_path):
    write_sweep_page(tmp_path / "sweep.html", "nothing", [], {})
    assert "No trial yet." in (tmp_path / "sweep.html").read_text(encoding="utf-8")

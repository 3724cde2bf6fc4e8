"""The HTML report: what it says of whole, going and broken runs, and (slow) how a browser shows it."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxtok.evaluate.protocol import Result, write_results
from jaxtok.inspect import write_report
from jaxtok.inspect.__main__ import main
from jaxtok.inspect.run_folder import read_run

VOID = {"meta", "link", "img", "path", "circle", "polyline"}


class Page(HTMLParser):
    """Checks that elements are closed in order, and keeps texts and addresses."""

    def __init__(self, path):
        super().__init__()
        self.open, self.texts, self.addresses, self.ids = [], [], [], set()
        self.feed(path.read_text(encoding="utf-8"))
        assert not self.open

    def handle_starttag(self, tag, attrs):
        if tag not in VOID and tag != "wbr":
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href"):
                self.addresses.append(value)
            if name == "id":
                self.ids.add(value)

    handle_startendtag = handle_starttag

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.texts.append(data)

    @property
    def text(self):
        return "".join(self.texts)


@pytest.fixture
def write_run(tmp_path):
    """`write_run(whole)`: a run of a tokenizer and a prior, over or in the middle of the tokenizer."""

    def write(whole: bool) -> Path:
        path = tmp_path / "runs" / "x"
        (path / "figures").mkdir(parents=True)
        model = {"tokens": 8, "name": "<b>&"}
        config = {"experiment": "toy", "config": {"model": model, "steps": 100}, "seed": 3}
        config |= {"stages": {"vq": 100, "vq_prior": 50}, "commit": "abc1234", "versions": {"jax": "0.10"}}
        (path / "config.json").write_text(json.dumps(config))
        lines = [
            {"stage": "vq", "step": s, "loss/total": 300.0 / s, "psnr": 10 + s / 10} for s in (1, 20, 40)
        ]
        lines += [{"stage": "vq", "step": 40, "eval/psnr_uint8": 12.5}]
        if whole:
            lines += [{"stage": "vq", "step": 100, "loss/total": 1.0, "psnr": 20.0}]
            lines += [{"stage": "vq", "step": 100, "loop": "nothing recompiled"}]
            lines += [{"stage": "vq_prior", "step": s, "loss/nll": 0.5} for s in (1, 50)]
            (path / "summary.json").write_text(
                json.dumps(
                    {"vq": {"steps": 100, "seconds": 61.0}, "vq_prior": {"steps": 50, "seconds": 29.0}}
                )
            )
            shared = {"images": 297, "split": "eval"}
            results = [
                Result("vq/psnr_uint8", 20.125, {**shared, "pixels": "uint8"}),
                Result("vq/code_usage", 0.75, {**shared, "levels": "64"}),
                Result("vq_prior/nll_nats_per_slot", 0.5, shared),
            ]
            write_results(path / "results.json", results)
        (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        for step in (20, 40, *([100] if whole else [])):
            noise = np.random.default_rng(step).integers(0, 256, (20, 30, 3)).astype(np.uint8)
            Image.fromarray(noise).save(path / "figures" / f"vq_reconstructions_{step:07d}.png")
        if whole:
            shutil.copy(path / "figures" / "vq_reconstructions_0000100.png", path / "figures" / "x.png")
            path.joinpath("figures", "x.png").rename(path / "figures" / "vq_prior_samples_w3_0000050.png")
        (path / "checkpoints" / "vq" / "40").mkdir(parents=True)
        return path

    return write


def test_a_whole_run(write_run, tmp_path):
    page = Page(write_report(tmp_path / "deep" / "report.html", write_run(True)))
    assert "toy · x" in page.text and "2 of 2 stages trained, 90 s in all, commit abc1234" in page.text
    assert "20.12" in page.text and "0.75" in page.text and "nothing recompiled" in page.text
    assert "All: images 297 · split eval" in page.text and "levels 64" in page.text
    assert "<b>&" in page.text, "values of the configuration are text"
    assert "Not begun" not in page.text and "No pictures" not in page.text
    assert "Samples, one row per caption or class, guidance 3, step 50" in page.text
    # The newest picture stands before the earlier ones, and nothing comes from elsewhere.
    steps = re.findall(r"Held-out images, [^,]*, step (\d+)", page.text)
    assert steps == ["100", "40", "20"]
    assert all(address.startswith(("#", "data:")) for address in page.addresses)
    assert {address[1:] for address in page.addresses if address[0] == "#"} <= page.ids


def test_a_run_that_is_going_says_what_is_absent(write_run, tmp_path):
    page = Page(write_report(tmp_path / "report.html", write_run(False)))
    assert "0 of 2 stages trained, vq at step 40 of 100, metrics last written" in page.text
    assert "Not begun: vq_prior." in page.text and "Not measured with protocols: vq." in page.text
    assert "12.5" in page.text and "without protocols" in page.text
    assert "checkpoint 40" in page.text and "This stage has not begun." in page.text


def test_only_a_configuration(write_run, tmp_path):
    path = write_run(False)
    (path / "metrics.jsonl").unlink()
    shutil.rmtree(path / "figures")
    shutil.rmtree(path / "checkpoints")
    page = Page(write_report(tmp_path / "report.html", path))
    assert "No metrics.jsonl: the run has not taken its first step." in page.text
    assert "Nothing has been measured yet." in page.text


def test_files_that_are_being_written(write_run, tmp_path):
    path = write_run(True)
    (path / "results.json").write_text('[{"name": "vq/psnr')
    whole = (path / "figures" / "vq_reconstructions_0000100.png").read_bytes()
    (path / "figures" / "vq_codes_0000100.png").write_bytes(whole[: len(whole) // 2])
    with open(path / "metrics.jsonl", "a") as file:
        file.write('{"stage": "vq_pri')
    page = Page(write_report(tmp_path / "report.html", path))
    assert (
        "results.json cannot be read" in page.text
        and "Not measured with protocols: vq, vq_prior" in page.text
    )


def test_older_runs_without_totals(write_run):
    path = write_run(True)
    config = json.loads((path / "config.json").read_text())
    del config["stages"]
    (path / "config.json").write_text(json.dumps(config))
    (path / "summary.json").unlink()
    vq, prior = read_run(path).stages
    assert (vq.total, vq.trained) == (100, True) and (prior.total, prior.trained) == (None, False)
    assert [figure.name for figure in vq.figures] == ["reconstructions"] * 3
    assert [figure.name for figure in prior.figures] == ["samples_w3"]


def test_command_line(write_run, tmp_path, capsys):
    main([str(tmp_path / "report.html"), "--workdir", str(write_run(True))])
    assert "report.html" in capsys.readouterr().out and (tmp_path / "report.html").exists()
    for content in (None, "[]"):
        other = tmp_path / f"other{content}"
        other.mkdir()
        if content:
            (other / "config.json").write_text(content)
        with pytest.raises(SystemExit):
            main([str(tmp_path / "none.html"), "--workdir", str(other)])
        assert capsys.readouterr().err.startswith("error: ")
    assert not (tmp_path / "none.html").exists()


def test_a_real_run(small_run, tmp_path):
    run = read_run(small_run[0])
    assert len(run.stages) == 5 and all(s.trained and s.total == s.step == 3 for s in run.stages)
    page = Page(write_report(tmp_path / "report.html", small_run[0]))
    assert (
        "5 of 5 stages trained" in page.text and "reconstructions and maps of the absolute error" in page.text
    )
    assert sum(address.startswith("data:image/png") for address in page.addresses) >= 5


# -- in a browser --


def screenshot(page: Path, picture: Path, *flags: str) -> tuple[np.ndarray, list[str]]:
    """What headless Chromium draws, and what it says on the console."""
    browser = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None)
    if browser is None:
        pytest.skip("no chromium and no google-chrome on this machine")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    command += ["--disable-background-networking", "--enable-logging=stderr", "--window-size=1000,1600"]
    command += [f"--user-data-dir={picture.parent / 'profile'}", f"--screenshot={picture}", *flags]
    done = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    shown = np.asarray(Image.open(picture).convert("RGB"))
    return shown, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.slow
def test_a_browser_shows_it(small_run, tmp_path):
    page = write_report(tmp_path / "report.html", small_run[0])
    light, said = screenshot(page, tmp_path / "light.png")
    assert not said
    assert (
        light.shape == (1600, 1000, 3)
        and light.std() > 10
        and len(np.unique(light.reshape(-1, 3), axis=0)) > 50
    )

    # The policy inside the page refuses whatever it does not carry, and this test would see it. Nothing else
    # is said in dark colours.
    text = page.read_text(encoding="utf-8")
    page.write_text(text.replace("</main>", '<img src="https://example.com/x.png"></main>'), encoding="utf-8")
    dark, said = screenshot(page, tmp_path / "dark.png", "--blink-settings=preferredColorScheme=0")
    assert light.mean() > 200 and dark.mean() < 120
    assert said and all("Content Security Policy" in line for line in said)

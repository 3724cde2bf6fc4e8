import io

from jaxtok.train.console import ConsoleWriter


class _Terminal(io.StringIO):
    def isatty(self):
        return True


def test_plain_lines_with_speed_after_the_first():
    times = iter([100.0, 102.0, 102.5, 106.5])
    file = io.StringIO()
    writer = ConsoleWriter("prior", 100, 8, file=file, clock=lambda: next(times))
    writer.scalars(1, {"loss": 1.0})  # the compiler's step
    writer.scalars(5, {"loss": 0.5})  # 0.5 s per step
    writer.scalars(5, {"eval/psnr": 20.0})
    writer.scalars(9, {"loss": 0.25})  # 1.125 s per step, evaluation included
    writer.text(9, "note", "hello")
    writer.close()
    assert file.getvalue().splitlines() == [
        "prior 1/100 | loss 1",
        "prior 5/100 | 16 examples/s | 0:00:48 left | loss 0.5",
        "prior 5/100 | 16 examples/s | 0:00:48 left | eval/psnr 20",
        "prior 9/100 | 11.64 examples/s | 0:01:03 left | loss 0.25",
        "prior 9/100 | note: hello",
    ]


def test_bar_on_a_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("TERM", "xterm")
    file = _Terminal()
    times = iter([0.0, 1.0])
    writer = ConsoleWriter("prior", 100, 8, file=file, clock=lambda: next(times))
    writer.scalars(1, {"loss": 1.0})
    writer.scalars(50, {"loss": 0.5})
    writer.text(50, "note", "[bold]hello")
    writer.close()
    shown = file.getvalue()
    assert "50/100" in shown and "392 examples/s" in shown and "[bold]hello" in shown

"""Where instructions come from: source lines and module paths in the metadata of a program."""

import re


def source_lines(text: str) -> dict[int, str]:
    """The tables of source lines at the head of a module, read from the innermost frame of this library."""
    files = dict(re.findall(r'^(\d+) "(.*)"$', _table(text, "FileNames"), re.M))
    places = {
        number: f"{short_path(files.get(file, ''))}:{line}"
        for number, file, line in re.findall(
            r"^(\d+) \{file_name_id=(\d+).* line=(\d+)", _table(text, "FileLocations"), re.M
        )
    }
    # Parents are written as their own number plus one, 1 for none.
    frames = {
        number: (places.get(place, ""), str(int(parent) - 1))
        for number, place, parent in re.findall(
            r"^(\d+) \{file_location_id=(\d+) parent_frame_id=(\d+)", _table(text, "StackFrames"), re.M
        )
    }

    def own(number: str) -> str:
        first = frames[number][0]
        while number in frames:
            place, number = frames[number]
            if place.startswith(("jaxtok/", "experiments/")):
                return place
        return first

    return {int(number): own(number) for number in frames}


def _table(text: str, name: str) -> str:
    match = re.search(rf"^{name}\n((?:\d+ .*\n)*)", text, re.M)
    return match.group(1) if match else ""


def scope_of(name: str) -> str:
    """The modules in an op_name, without the transformations that led there; the first of several."""
    again, merged = "rematted_computation", ":" in name
    skipped = ("while", "body", "closed_call", "checkpoint", "block.body", again)
    parts = [
        part for part in name.partition(":")[0].split("/")[:-1] if part not in skipped and "(" not in part
    ]
    path = "/".join(part for part in parts if "." not in part)
    backward = ", backward" if "transpose(" in name else ""
    kind = (" and others" if merged else "") + (", recomputed" if again in name else backward)
    return f"{path}{kind}" if path else ""


def short_path(path: str) -> str:
    """A path from the package on, without where it is installed."""
    match = re.search(r"/((?:jaxtok|experiments)/(?!.*/(?:jaxtok|experiments)/).*\.py)$", path)
    return match.group(1) if match else "/".join(path.split("/")[-2:])

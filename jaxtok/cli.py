"""The verbs that every experiment has. An experiment file calls `main` and gets them all, with typed flags
and `--help`.
"""

import dataclasses
import difflib
import inspect
import logging
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from jaxtok.json_files import read_object

# What users can mend is told in one line; `--debug` shows where it comes from.
_PLAIN_ERRORS = (ValueError, OSError, ImportError, RuntimeError, FloatingPointError)

_VERBS = {
    "train": "train all stages, or continue where they stopped (the default)",
    "evaluate": "measure a run on held-out data",
    "sample": "sample what is asked for: captions, labels, a file of requests",
    "encode": "turn a data set into token files",
    "decode": "turn token files back into what was encoded",
    "verify": "train the arms of the claims and say which hold",
    "plan": "compile for a topology that is not attached: memory, arithmetic, messages, what fits",
    "sweep": "search hyper-parameters, in as many processes as you start",
}


def main(
    name: str,
    presets: Mapping[str, Any],
    stages: Callable[[Any], Iterable[Any]],
    claims: Sequence[Any] = (),
    doc: str | None = None,
    argv: Sequence[str] | None = None,
    verbs: Sequence[str] = tuple(_VERBS),
    space: Mapping[str, Any] | None = None,
) -> None:
    """Runs an experiment from the command line: `[verb] [--preset name] [--field value ...]`.

    Args:
      name: of the system, as in `jaxtok.systems.registry`.
      presets: configurations; the first is the default.
      stages: `config -> stages`.
      claims: of the system.
      doc: docstring of the experiment file, shown by `--help`.
      argv: arguments; default those of the process.
      verbs: those that make sense here; a comparison of many small models has nothing to sample or encode
        with.
      space: what `sweep` varies by default: dotted path in the configuration -> `Range` or `Choice`.
    """
    arguments = [_at_home(word) for word in (sys.argv[1:] if argv is None else argv)]
    _prepare_jax()
    import jax

    from jaxtok.run.experiment import Experiment
    from jaxtok.train.distributed import finish
    from jaxtok.train.loop import Stopped

    experiment = Experiment(name, doc or "", presets, stages, claims, space or {})
    debug = "--debug" in arguments
    arguments = [word for word in arguments if word != "--debug"]
    try:
        verb = arguments.pop(0) if arguments and not arguments[0].startswith("-") else "train"
        if verb not in verbs:
            raise ValueError(f"no verb {verb!r}; there are {', '.join(verbs)}")
        _run(experiment, verb, arguments, verbs)
        finish()
    except Stopped as stopped:
        print(stopped)
        finish()
    except BrokenPipeError:  # `--help | head`
        raise SystemExit(0) from None
    except Exception as error:
        plain = isinstance(error, _PLAIN_ERRORS) and not isinstance(error, jax.errors.JaxRuntimeError)
        if jax.distributed.is_initialized():
            from jaxtok.train.process_failure import abort

            abort(error, trace=debug or not plain)
        if debug or not plain:
            raise
        print(f"error: {_printable(str(error))}", file=sys.stderr)
        raise SystemExit(1) from None


def _printable(text: str, most: int = 4000) -> str:
    """Text for a terminal: what a file or a name brings along moves no cursor and changes no colour."""
    safe = "".join(char if char.isprintable() or char == "\n" else repr(char)[1:-1] for char in text)
    return safe if len(safe) <= most else f"{safe[:most]} ... ({len(safe) - most} more characters)"


def _at_home(word: str) -> str:
    """`--flag=~/x` with the home directory: shells expand a tilde only where a word begins with it."""
    flag, equals, value = word.partition("=")
    home = flag.startswith("--") and (value == "~" or value.startswith("~/"))
    return f"{flag}={os.path.expanduser(value)}" if equals and home else word


def _prepare_jax() -> None:
    """Settings that must precede JAX: compiled programs are kept between runs, freed memory within one."""
    import jax

    from jaxtok.train.compile_cache import remove_cut_entries
    from jaxtok.train.host_memory import keep_freed_memory

    keep_freed_memory()
    if int(os.environ.get("JAX_NUM_CPU_DEVICES", "1")) > 1:
        # XLA's fake devices share one pool with a thread per core, and a collective blocks its thread until
        # all devices have come: with few cores a step deadlocks.
        os.environ.setdefault("NPROC", "64")
    # JAX declares its options at run time, so a type checker does not know their names.
    config: Any = jax.config
    if not config.jax_compilation_cache_dir:
        cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "jaxtok" / "jax"
        jax.config.update("jax_compilation_cache_dir", str(cache))
    remove_cut_entries(config.jax_compilation_cache_dir)


def _run(experiment: Any, verb: str, arguments: list[str], offered: Sequence[str]) -> None:
    import jax

    from jaxtok.run import verbs
    from jaxtok.train.distributed import initialize
    from jaxtok.train.run import Run

    preset, config, arguments = _take_config(experiment, arguments)
    config, arguments = _with_kinds(config, arguments)
    workdir = f"runs/{experiment.name}-{preset}"
    if verb == "train":
        run, config = _parse(verb, _description(experiment, offered), arguments, Run(workdir=workdir), config)
        # Libraries below tell every detail at "info", so the level is that of this one alone.
        logging.basicConfig(level=logging.WARNING, format="%(message)s", force=True)
        logging.getLogger("jaxtok").setLevel(run.log_level.upper())
        initialize(run.distributed)
        verbs.train_verb(experiment, config, run)
    elif verb == "plan":
        from jaxtok.run.plan.verb import Plan, plan_verb

        # Nothing runs, so no accelerator of this machine is touched.
        jax.config.update("jax_platforms", "cpu")
        description = f"{_summary(Plan)}\n\n{_presets(experiment)}"
        options, config = _parse(verb, description, arguments, Plan(), config)
        plan_verb(experiment, config, options, preset)
    elif verb == "verify":
        default = verbs.Verify(workdir=f"{workdir}-verify")
        description = f"{_summary(verbs.Verify)}\n\n{_presets(experiment)}"
        options, config = _parse(verb, description, arguments, default, config)
        verbs.verify_verb(experiment, config, options, preset)
    elif verb == "sweep":
        try:
            from jaxtok.run.sweep.options import Sweep
            from jaxtok.run.sweep.verb import sweep_verb
        except ModuleNotFoundError as error:
            if error.name != "optuna":
                raise
            raise ImportError('`sweep` needs Optuna: pip install "jaxtok[sweep]"') from error

        description = f"{_summary(Sweep)}\n\n{_presets(experiment)}"
        options, config = _parse(verb, description, arguments, Sweep(workdir=f"{workdir}-sweep"), config)
        sweep_verb(experiment, config, options)
    else:
        kind = getattr(verbs, verb.capitalize())
        options, _ = _parse(verb, _summary(kind), arguments, kind(workdir=workdir), None)
        getattr(verbs, f"{verb}_verb")(experiment, options)


def _take_config(experiment: Any, arguments: list[str]) -> tuple[str, Any, list[str]]:
    """What `--preset name` or `--config file` names: its name, the configuration, and the other arguments."""
    from jaxtok.config_files import from_json

    taken: dict[str, str] = {}
    rest, words = [], iter(arguments)
    for word in words:
        flag, equals, value = word.partition("=")
        if flag in ("--preset", "--config"):
            taken[flag] = value if equals else next(words, "")
        else:
            rest.append(word)
    presets = experiment.presets
    if len(taken) == 2:
        raise ValueError("--preset and --config are two places for one configuration; give one")
    if "--config" not in taken:
        preset = taken["--preset"] if taken else next(iter(presets))
        if preset not in presets:
            raise ValueError(f"no preset {preset!r}; there are {', '.join(presets)}")
        return preset, presets[preset], rest
    path = Path(taken["--config"])
    needed = {"experiment": str, "config": dict}
    record = read_object(path, needed, "Pass the config.json of a run, or the best.json of a sweep.")
    if record["experiment"] != experiment.name:
        raise ValueError(f"{path} configures {record['experiment']!r}, this is {experiment.name!r}")
    return path.stem, from_json(type(next(iter(presets.values()))), record["config"]), rest


_KIND = re.compile(r"^--([\w.-]+):(\S+)$")


def _with_kinds(config: Any, arguments: list[str]) -> tuple[Any, list[str]]:
    """The configuration with the kinds that `--path:kind` names, and the other arguments.

    Raises:
      ValueError: no such field, or one that has no kinds.
    """
    from jaxtok.aliases import kind_flags
    from jaxtok.kinds import replace_kind

    rest = []
    for word in kind_flags(arguments):
        found = _KIND.match(word)
        if found:
            config = replace_kind(config, found[1].replace("-", "_"), found[2])
        else:
            rest.append(word)
    return config, rest


def _parse(verb: str, description: str, arguments: list[str], options: Any, config: Any) -> tuple[Any, Any]:
    """Fields of the options and of the configuration (if any) side by side, as flags without a prefix."""
    from jaxtok.aliases import current_flags

    unprefixed = tyro.conf.arg(name="")
    parts = {"options": options} if config is None else {"options": options, "config": config}
    command = dataclasses.make_dataclass(
        "Command", [(name, Annotated[type(part), unprefixed]) for name, part in parts.items()], frozen=True
    )
    parsed, unknown = tyro.cli(
        command,
        args=arguments,
        default=command(**parts),
        prog=f"{Path(sys.argv[0]).name} {verb}",
        description=description,
        config=(tyro.conf.AvoidSubcommands,),
        return_unknown_args=True,
    )
    if unknown:
        known = [flag for part in parts.values() for flag in _flags(part)]
        flag = unknown[0].partition("=")[0]
        close = current_flags(config, flag) or difflib.get_close_matches(flag.replace("_", "-"), known)
        meant = f"did you mean {' or '.join(close)}? " if close else ""
        raise ValueError(f"unknown {' '.join(unknown)!r}; {meant}{verb} --help lists the flags")
    return parsed.options, getattr(parsed, "config", None)


def _flags(config: Any, prefix: str = "--") -> Iterable[str]:
    """The flags of a configuration and of those inside it."""
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), prefix + field.name.replace("_", "-")
        if dataclasses.is_dataclass(value):
            yield from _flags(value, f"{name}.")
        else:
            yield name


def _summary(kind: type) -> str:
    """The docstring of a verb's options, without their list, which are the flags."""
    return inspect.cleandoc(kind.__doc__ or "").partition("Attributes:")[0].strip()


def _presets(experiment: Any) -> str:
    return (
        f"--preset is one of {', '.join(experiment.presets)}, --config a file (`config.json` of a run, "
        "`best.json` of a sweep); flags change single fields of it, and --FIELD:KIND its kind "
        "(--data:folder), after which the fields of that kind are flags."
    )


def _description(experiment: Any, offered: Sequence[str]) -> str:
    verbs = "\n".join(f"  {name:10}{_VERBS[name]}" for name in offered)
    doc = experiment.doc.strip()
    return (
        f"{doc}\n\nThe verb comes first (VERB --help for its flags):\n{verbs}\n\n"
        f"{_presets(experiment)}\n"
        "--debug shows where an error comes from."
    )

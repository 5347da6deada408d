"""What every method has to prove, whoever wrote it: ``avtbench check METHOD``, and the same from pytest.

@pytest.mark.parametrize("name, check", contract_suite.checks(Factory("lit")), ids=...)
"""

from __future__ import annotations

import math
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avtbench.bench import plugins
from avtbench.bench.errors import one_line

if TYPE_CHECKING:
    from rich.console import Console
    from torch import Tensor

    from avtbench.methods.contract import Method, Tokens

SIZES = ((1, 32, 32), (2, 34, 46), (5, 64, 48), (9, 32, 32), (17, 32, 64))
"""(T, H, W) of the clips tried: any length from one frame, any even side from 32."""
TOLERANCE = 1e-6


@dataclass(frozen=True)
class Factory:
    """How to build a method, here and in another process."""

    name: str
    tokenizer: str | Mapping[str, Any] | None = None
    knobs: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self) -> Method:
        return plugins.create("method", self.name, tokenizer=self.tokenizer, **self.knobs)


def clip(frames: int, height: int, width: int, seed: int = 0) -> Tensor:
    """A test clip, uint8 ``[T, H, W, 3]``: smooth texture drifting beside a still half, with a little noise."""
    import torch

    noise = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(height) / 16, torch.arange(width) / 16, indexing="ij")
    images = []
    for t in range(frames):
        moved = torch.where(torch.arange(height)[:, None] < height // 2, x, x - 0.2 * t)
        image = torch.stack([torch.sin(moved + c) * torch.cos(y * (1 + 0.3 * c)) for c in range(3)], dim=-1)
        images.append(127.5 + 100 * image + 2 * torch.randn(image.shape, generator=noise))
    return torch.stack(images).clamp(0, 255).round().to(torch.uint8)


class Broken(AssertionError):
    """A method broke the contract; one line says how."""


def _hold(condition: bool, message: str) -> None:
    if not condition:
        raise Broken(message)


class Suite:
    """The checks on one method; it is built and run over the test clips once, on first use."""

    def __init__(self, factory: Callable[[], Method]):
        self.factory = factory

    @cached_property
    def method(self) -> Method:
        return self.factory()

    @cached_property
    def settings(self) -> list[float]:
        """The lowest, a middle and the highest default setting."""
        every = list(self.method.default_settings)
        _hold(bool(every), "default_settings is empty; name at least one setting to sweep")
        return sorted({every[0], every[len(every) // 2], every[-1]})

    @cached_property
    def clips(self) -> list[Tensor]:
        tried = [clip(*size, seed=i) for i, size in enumerate(SIZES)]
        return [video for video in tried if not self.method.skip(tuple(video.shape[:3]))]  # type: ignore[arg-type]

    def run(self, method: Method, video: Tensor, setting: float) -> tuple[Tokens, Tensor]:
        import torch

        with torch.inference_mode():
            tokens = method.select(method.encode(video), setting)
            return tokens, method.decode(tokens)

    @cached_property
    def results(self) -> list[tuple[Tensor, float, Tokens, Tensor]]:
        """(clip, setting, tokens, reconstruction): every clip at the middle setting, one clip at all."""
        middle = self.settings[len(self.settings) // 2]
        points = [(video, middle) for video in self.clips]
        points += [(self.clips[-1], setting) for setting in self.settings if setting != middle]
        return [(video, setting, *self.run(self.method, video.clone(), setting)) for video, setting in points]

    # the checks, each named after what it proves

    def declares_itself(self) -> None:
        from avtbench.bench import identity

        method = self.method
        _hold(bool(method.summary), "summary is empty; write one line for avtbench ls")
        _hold(bool(method.setting_name), "setting_name is empty")
        _hold(
            list(method.default_settings) == sorted(method.default_settings),
            "default_settings are not from low to high",
        )
        _hold(bool(identity.canonical(dict(method.parameters))), "parameters is not a mapping")
        _hold(method.weights in ("trained", "random", "none"), f"weights is {method.weights!r}")

    def any_size_comes_back(self) -> None:
        import torch

        _hold(bool(self.clips), f"every size of {SIZES} is skipped: {self.method.skip(SIZES[-1])}")
        for video, setting, _, decoded in self.results:
            where = f"clip {list(video.shape)} at {setting:g}"
            _hold(
                isinstance(decoded, torch.Tensor), f"{where}: decode gave {type(decoded).__name__}, expected a tensor"
            )
            _hold(decoded.shape == video.shape, f"{where}: decode gave {list(decoded.shape)}")
            _hold(decoded.dtype == torch.float32, f"{where}: decode gave {decoded.dtype}, expected float32")
            _hold(bool(torch.isfinite(decoded).all()), f"{where}: decode gave values that are not finite")
            low, high = decoded.min().item(), decoded.max().item()
            _hold(
                (low > -1 and high < 2) or self.method.weights == "random",  # an untrained decoder may say anything
                f"{where}: decode gave values in [{low:.2f}, {high:.2f}], expected about [0, 1]",
            )

    def tokens_are_counted(self) -> None:
        import torch

        for video, setting, tokens, _ in self.results:
            where = f"clip {list(video.shape)} at {setting:g}"
            _hold(tokens.video == tuple(video.shape[:3]), f"{where}: Tokens.video is {tokens.video}")
            _hold(tokens.keep.dtype == torch.bool, f"{where}: keep is {tokens.keep.dtype}, expected bool")
            _hold(
                tokens.kept == int(tokens.keep.sum()),
                f"{where}: {tokens.kept} values for {int(tokens.keep.sum())} kept",
            )
            axes = 3 if tokens.mask_kind == "positions" else 2
            _hold(
                tokens.keep.ndim == axes,
                f"{where}: keep has {tokens.keep.ndim} axes, {tokens.mask_kind} masks have {axes}",
            )
            _hold(tokens.total > 0, f"{where}: the grid is empty")
            if tokens.codebook is not None:
                inside = tokens.kept == 0 or 0 <= int(tokens.values.min()) <= int(tokens.values.max()) < tokens.codebook
                _hold(inside, f"{where}: codes leave [0, {tokens.codebook})")
            else:
                _hold(tokens.values.ndim == 2, f"{where}: values are {list(tokens.values.shape)}, expected [n, C]")

    def prefix_masks_are_prefixes(self) -> None:
        for video, setting, tokens, _ in self.results:
            if tokens.mask_kind == "prefix":
                falling = (tokens.keep[:, 1:] <= tokens.keep[:, :-1]).all()
                _hold(
                    bool(falling),
                    f"clip {list(video.shape)} at {setting:g}: a row of keep is no run of True, then False",
                )

    def same_twice(self) -> None:
        import torch

        video, setting, tokens, decoded = self.results[-1]
        torch.manual_seed(1234)  # a method that draws from the global generator is found out
        for whose, method in (("the same", self.method), ("a new", self.factory())):
            again, pixels = self.run(method, video.clone(), setting)
            _hold(torch.equal(again.keep, tokens.keep), f"{whose} instance keeps other positions the second time")
            _hold(torch.equal(again.values, tokens.values), f"{whose} instance sends other values the second time")
            worst = (pixels - decoded).abs().max().item()
            _hold(worst <= TOLERANCE, f"{whose} instance decodes other pixels the second time (by {worst:.2g})")

    def inputs_stay_untouched(self) -> None:
        import torch

        video = self.clips[-1].clone()
        setting = self.settings[0]
        with torch.inference_mode():
            latents = self.method.encode(video)
            _hold(torch.equal(video, self.clips[-1]), "encode changed the clip it was given")
            first = self.method.select(latents, setting)
            blob = first.to_bytes()
            self.method.decode(first)
            _hold(first.to_bytes() == blob, "decode changed the tokens it was given")
            for other in self.settings[1:]:
                self.method.select(latents, other)
            again = self.method.select(latents, setting)
        _hold(torch.equal(video, self.clips[-1]), "select or decode changed the clip")
        _hold(again.to_bytes() == blob, "select gives other tokens after another setting; it changed the latents")

    def settings_do_not_leak(self) -> None:
        """One encode for a whole sweep gives what a fresh encode for each setting gives."""
        import torch

        with torch.inference_mode():
            latents = self.method.encode(self.clips[-1].clone())
            for video, setting, tokens, _ in self.results:
                if video is self.clips[-1]:
                    shared = self.method.select(latents, setting)
                    _hold(
                        torch.equal(shared.keep, tokens.keep), f"setting {setting:g} keeps other positions in a sweep"
                    )

    def decodes_in_a_fresh_process(self) -> None:
        import torch
        from safetensors.torch import load_file

        if not isinstance(self.factory, Factory):
            raise Broken("needs a contract_suite.Factory, which another process can build from")
        with tempfile.TemporaryDirectory() as folder:
            for i, (_, _, tokens, _) in enumerate(self.results):
                Path(folder, f"{i}.tokens").write_bytes(tokens.to_bytes())
            import json

            told = json.dumps([self.factory.name, self.factory.tokenizer, dict(self.factory.knobs)])
            done = subprocess.run(
                [sys.executable, "-c", _RECEIVER, folder, told, str(torch.get_num_threads())],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            last = (done.stderr.strip().splitlines() or ["no word"])[-1]
            _hold(done.returncode == 0, f"decoding in a fresh process failed: {last}")
            decoded = load_file(Path(folder, "decoded.safetensors"))
        for i, (video, setting, _, here) in enumerate(self.results):
            worst = (decoded[str(i)] - here).abs().max().item()
            where = f"clip {list(video.shape)} at {setting:g}"
            _hold(
                worst <= TOLERANCE,
                f"{where}: a fresh process decodes other pixels (by {worst:.2g}); Tokens lack something",
            )

    def chunks_of_a_stream_come_back(self) -> None:
        """Methods that stream: every chunk from its bytes, twice from the same states."""
        import torch

        from avtbench.methods.contract import Tokens
        from avtbench.methods.streaming import StreamingMethod, split

        method = self.method
        if not isinstance(method, StreamingMethod) or method.no_stream:
            return
        setting = self.settings[len(self.settings) // 2]
        encoding = selecting = decoding = None
        for number, chunk in enumerate(split(self.clips[-1].clone(), *method.chunking(2 * method.step))):
            where, passes = f"chunk {number} of {len(chunk)} frames", []
            with torch.inference_mode():
                for _ in range(2):
                    latents, encoded = method.encode_chunk(chunk, encoding)
                    tokens, selected = method.select_chunk(latents, setting, selecting)
                    blob = tokens.to_bytes()
                    frames, decoded = method.decode_chunk(Tokens.from_bytes(blob), decoding)
                    passes.append((blob, frames, (encoded, selected, decoded)))
            (first, one, _), (second, two, carried) = passes
            _hold(one.shape == chunk.shape, f"{where}: decode_chunk gave {list(one.shape)}")
            _hold(tokens.video == tuple(chunk.shape[:3]), f"{where}: Tokens.video is {tokens.video}")
            _hold(first == second, f"{where}: other tokens the second time; a state was changed")
            _hold(torch.equal(one, two), f"{where}: other pixels the second time; a state was changed")
            encoding, selecting, decoding = carried

    def bad_settings_are_refused(self) -> None:
        from avtbench.methods.contract import ContractError

        for bad in ("abc", math.nan, None, [0.5]):
            try:
                self.method.check_setting(bad)  # type: ignore[arg-type]
            except ContractError as error:
                _hold(len(str(error).splitlines()) == 1, f"setting {bad!r} is refused in more than one line")
            except Exception as error:
                raise Broken(f"setting {bad!r} raises {type(error).__name__}, expected ContractError") from error
            else:
                raise Broken(f"setting {bad!r} is accepted; check_setting has to raise ContractError")

    def extreme_settings_work_or_are_refused(self) -> None:
        import torch

        from avtbench.methods.contract import ContractError

        video = self.clips[0]
        for extreme in (-1.0, 0.0, 1e9, math.inf, -math.inf):
            try:
                value = self.method.check_setting(extreme)
                tokens, decoded = self.run(self.method, video.clone(), value)
            except ContractError as error:
                _hold(len(str(error).splitlines()) == 1, f"setting {extreme} is refused in more than one line")
            except Exception as error:
                raise Broken(
                    f"setting {extreme} raises {one_line(error)}, expected a result or ContractError"
                ) from error
            else:
                _hold(
                    decoded.shape == video.shape and bool(torch.isfinite(decoded).all()),
                    f"setting {extreme} decodes badly",
                )
                _hold(tokens.kept <= tokens.total, f"setting {extreme} keeps more than there is")


_RECEIVER = """
import json, sys
from pathlib import Path
import torch
from safetensors.torch import save_file
from avtbench.bench.contract_suite import Factory
from avtbench.methods.contract import Tokens
folder, told, threads = sys.argv[1:]
torch.set_num_threads(int(threads))
method = Factory(*json.loads(told))()
decoded = {}
with torch.inference_mode():
    for path in Path(folder).glob("*.tokens"):
        decoded[path.stem] = method.decode(Tokens.from_bytes(path.read_bytes())).contiguous().clone()
save_file(decoded, Path(folder, "decoded.safetensors"))
"""


def checks(factory: Callable[[], Method]) -> list[tuple[str, Callable[[], None]]]:
    """(name, callable) of every check; a callable raises :class:`Broken` or the method's own error. Work is shared."""
    suite = Suite(factory)
    names = (
        "declares_itself",
        "any_size_comes_back",
        "tokens_are_counted",
        "prefix_masks_are_prefixes",
        "same_twice",
        "inputs_stay_untouched",
        "settings_do_not_leak",
        "decodes_in_a_fresh_process",
        "chunks_of_a_stream_come_back",
        "bad_settings_are_refused",
        "extreme_settings_work_or_are_refused",
    )
    return [(name.replace("_", " "), getattr(suite, name)) for name in names]


def report(factory: Callable[[], Method], title: str, console: Console) -> int:
    """Run every check, print a table, return how many failed. A method that cannot be built raises its own error."""
    from rich.markup import escape
    from rich.table import Table

    factory()
    table = Table(title=f"contract of {title}", title_justify="left", box=None, pad_edge=False, show_header=False)
    failed = 0
    for name, run in checks(factory):
        try:
            run()
            table.add_row("[green]holds[/]", name, "")
        except Exception as error:
            failed += 1
            said = " ".join(str(error).split()) if isinstance(error, Broken) else one_line(error)
            table.add_row("[red]broken[/]", name, escape(said))
    console.print(table)
    return failed

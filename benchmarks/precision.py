"""What bf16 autocast gains and costs: time per step over fp32's, and the validation loss that comes out.

    python -m benchmarks.precision [--quick]

Our loop with the student of `params.yaml`, `precision: bf16` and `fp32` in alternating rounds after one that is not
counted. `bf16_over_fp32` is the median over rounds of the time per step, below 1 where bf16 is faster. `loss_difference`
is the validation loss (whole split, in fp32) after the same steps with bf16, less that with fp32, over that with fp32:
above 0 where bf16 learns worse.
"""

import statistics

import torch

from benchmarks.common import arguments, finish, say
from benchmarks.setting import Setting
from stillhouse.core.command_errors import one_line_errors
from stillhouse.runtime.distributed import join
from stillhouse.runtime.predict import predict
from stillhouse.targets.classes.predict.class_scores import score

PRECISIONS = ("fp32", "bf16")


def main() -> None:
    options = arguments(__doc__).parse_args()
    with one_line_errors("precision"):
        setting = Setting.read(steps=4 if options.quick else 200)
        setting.describe("Time per training step: bf16 autocast and fp32")
        has_bf16 = torch.cpu.get_capabilities().get("avx512_bf16", False)
        say(f"processor: bf16 instructions (AVX-512) {'present' if has_bf16 else 'absent'}")
        count = 1 if options.quick else 9
        times: dict[str, list[float]] = {precision: [] for precision in PRECISIONS}
        losses = {}
        validation = setting.task.validation
        whole = setting.task.collator(validation, setting.task.whole_rows, 0)
        with join(setting.params.threads) as ranks:
            say(f"device: {ranks.device}")
            for number in range(count + 1):
                for precision in PRECISIONS:
                    model = setting.build()
                    seconds = setting.fit(model, ranks, precision=precision).seconds
                    if number:
                        times[precision].append(seconds / setting.training.steps * 1000)
                    else:
                        # Every round walks the same steps, so once is enough.
                        logits = predict(model, validation, whole, ranks)
                        losses[precision] = score(logits, setting.task.validation.labels)["loss"]
                        say(f"warm-up: {precision} ends at validation loss {losses[precision]:.5f}")
                if number:
                    say(
                        f"round {number}/{count}: " + ", ".join(f"{name} {values[-1]:.2f} ms" for name, values in times.items())
                    )
    for precision, values in times.items():
        say(f"{precision}: median {statistics.median(values):.2f} ms per step ({min(values):.2f} to {max(values):.2f})")
    ratios = [bf16 / fp32 for fp32, bf16 in zip(times["fp32"], times["bf16"], strict=True)]
    difference = (losses["bf16"] - losses["fp32"]) / losses["fp32"]
    say(f"bf16 over fp32: {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")
    say(f"validation loss, {len(setting.task.validation):,} rows: {difference:+.3%}")
    finish(bf16_over_fp32=statistics.median(ratios), loss_difference=difference)


if __name__ == "__main__":
    main()

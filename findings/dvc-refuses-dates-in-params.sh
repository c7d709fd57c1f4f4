#!/usr/bin/env bash
# DVC 3.67.1: a date in params.yaml, which YAML reads as a date and not as text, ends `dvc repro` and `dvc status` with "unexpected error",
# also where no stage depends on the key and dvc.yaml does not mention it. Written in quotes it is taken.
# Output seen:
#   size: 3 and made: "2026-11-30": repro 0, status 0
#   size: 3 and made: 2026-11-30: repro 255, status 255, ERROR: unexpected error - Unsupported value of type 'date' in 'params.yaml:made'
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check dvc==3.67.1
export PATH="$place/venv/bin:$PATH" DVC_NO_ANALYTICS=1 GIT_CONFIG_GLOBAL=/dev/null
mkdir "$place/repository"
cd "$place/repository"
git init --quiet .
dvc init --quiet
cat > dvc.yaml <<'YAML'
stages:
  a: {cmd: echo 1 > out, params: [size], outs: [out]}
YAML
look() {
    printf 'size: 3\nmade: %s\n' "$1" > params.yaml
    repro=0; status=0
    dvc repro > said 2>&1 || repro=$?
    dvc status > /dev/null 2>&1 || status=$?
    echo "size: 3 and made: $1: repro $repro, status $status$(grep -o 'ERROR: unexpected error.*' said | sed 's/^/, /' || true)"
}
look '"2026-11-30"'
[ "$repro $status" = "0 0" ]
look '2026-11-30'
[ "$repro $status" = "255 255" ] && grep -q "Unsupported value of type 'date' in 'params.yaml:made'" said

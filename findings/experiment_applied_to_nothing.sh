#!/usr/bin/env bash
# DVC 3.67.1: where a checkout's git folder lies elsewhere (git init or clone --separate-git-dir), 'dvc exp apply' says that the
# experiment has been applied, exits with 0, and changes nothing. 'git' and all other commands of DVC work there.
#
# Seen:
#   Changes for experiment 'second' have been applied to your current workspace.
#   exit code 0; params.yaml holds: n: 1
# (with .git in its usual place it holds n: 2). Exits with 1 if that changes.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
export HOME="$place"
python3.11 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check dvc==3.67.1 dulwich==1.2.21 pygit2==1.21.0 scmrepo==3.6.2
export PATH="$place/venv/bin:$PATH" DVC_NO_ANALYTICS=1
git config --global user.name Ann
git config --global user.email ann@example.org
after() {
  # $1: options of git init
  rm -rf "$place/checkout"
  git init --quiet $1 "$place/checkout"
  cd "$place/checkout"
  dvc init --quiet
  echo "stages: {copy: {cmd: cp params.yaml out, params: [n], outs: [out]}}" > dvc.yaml
  echo "n: 1" > params.yaml
  dvc repro --quiet
  git add --all
  git commit --quiet --message one
  echo "n: 2" > params.yaml
  dvc repro --quiet
  dvc exp save --quiet --name second
  git checkout --quiet .
  dvc checkout --quiet
  dvc exp apply second
  echo "exit code $?; params.yaml holds: $(cat params.yaml)"
}
echo "--- .git in its usual place"
after "" | tee "$place/usual"
echo "--- --separate-git-dir"
after "--separate-git-dir $place/elsewhere.git" | tee "$place/separate"
grep -q "holds: n: 2" "$place/usual" && grep -q "have been applied" "$place/separate" && grep -q "holds: n: 1" "$place/separate"

#!/usr/bin/env bash
# dulwich 1.2.21, and with it DVC 3.67.1: a linked worktree of a submodule is opened at another folder.
#
# A submodule's git folder says core.worktree = ../../../NAME, for the submodule's own checkout; git ignores that in a linked
# worktree (as do libgit2 and GitPython). dulwich resolves it from the worktree's git folder, and works in a folder that does
# not even exist. 'dvc status' in such a worktree then ends with "... is outside of git repository ...". With
# extensions.worktreeConfig and core.worktree in config.worktree, as 'git sparse-checkout' leaves them, all agree.
#
# Seen:
#   git:     /PLACE/super/library/tree
#   pygit2:  /PLACE/super/library/tree
#   dulwich: /PLACE/super/.git/modules/library (which is no worktree)
#   with worktreeConfig, dulwich: /PLACE/super/library/tree
# Exits with 1 if that changes.
set -euo pipefail
place=$(cd "$(mktemp -d)" && pwd -P)
trap 'rm -rf "$place"' EXIT
export HOME="$place"
python3.11 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check dulwich==1.2.21 pygit2==1.21.0
python="$place/venv/bin/python"
git config --global user.name Ann
git config --global user.email ann@example.org
git config --global protocol.file.allow always
for name in origin super; do
  git init --quiet "$place/$name"
  git -C "$place/$name" commit --quiet --allow-empty --message one
done
git -C "$place/super" submodule --quiet add "$place/origin" library
cd "$place/super/library"
git worktree add --quiet --detach tree
dulwich() { (cd tree && "$python" -c 'import os, dulwich.repo; print(os.path.realpath(dulwich.repo.Repo(".").path))'); }
echo "git:     $(git -C tree rev-parse --show-toplevel)"
echo "pygit2:  $(cd tree && "$python" -c 'import pygit2; print(pygit2.Repository(".").workdir.rstrip("/"))')"
wrong=$(dulwich)
echo "dulwich: $wrong"
common=$(git rev-parse --path-format=absolute --git-common-dir)
git config extensions.worktreeConfig true
git config --file "$common/config.worktree" core.worktree ../../../library
git config --file "$common/config" --unset core.worktree
right=$(dulwich)
echo "with worktreeConfig, dulwich: $right"
[ "$wrong" != "$place/super/library/tree" ] && [ "$right" = "$place/super/library/tree" ]

#!/usr/bin/env bash
# ./run.sh                           trains, exports and tries out the digits demo
# ./run.sh flags/NAME.cfg [flags]    trains any other configuration
# ./run.sh test                      checks style and runs the test suite
#
# The first call makes .venv beside this file and installs daso_tf into it.
set -euo pipefail
cd "$(dirname "$0")"

# Without a GPU, all that TensorFlow logs at its start is that there is none.
command -v nvidia-smi >/dev/null || export TF_CPP_MIN_LOG_LEVEL="${TF_CPP_MIN_LOG_LEVEL:-3}"

fail() {
  echo "run.sh: $1" >&2
  exit 1
}

install() {
  local extras=test
  if command -v nvidia-smi >/dev/null; then extras=cuda,test; fi
  # Written last, so that an installation that was cut short is done again.
  local installed=.venv/installed
  local wanted
  wanted="$extras $(cksum setup.py)"
  if [[ -f $installed && $(<"$installed") == "$wanted" ]]; then return; fi

  command -v python3 >/dev/null || fail "no python3 on the PATH; install Python 3.11 or newer"
  python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "Python 3.11 or newer is needed, but python3 is $(python3 --version 2>&1)"
  echo "Installing daso_tf[$extras] into .venv"
  python3 -m venv .venv ||
    fail "python3 -m venv failed; on Debian and Ubuntu, install the package python3-venv"
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[$extras]"
  echo "$wanted" >"$installed"
}

run_tests() {
  .venv/bin/ruff check .
  .venv/bin/ruff format --check .
  .venv/bin/python -m pytest "$@"
}

demo() {
  local model_dir=runs/digits_lt
  .venv/bin/python -m daso_tf.train --flagfile=flags/digits_lt.cfg --model_dir="$model_dir"
  echo
  echo "The exported model, in a process of its own, on $model_dir/test_images/<class>_<number>.png:"
  .venv/bin/python -m daso_tf.predict --model="$model_dir/export" "$model_dir/test_images"
}

case "${1:-}" in
  "" | test | *.cfg) install ;;
  *) fail "expected nothing, 'test' or a flag file such as flags/cifar10_lt.cfg, but found '$1'" ;;
esac

case "${1:-}" in
  "") demo ;;
  test) run_tests "${@:2}" ;;
  *.cfg) .venv/bin/python -m daso_tf.train --flagfile="$1" "${@:2}" ;;
esac

#!/bin/sh
# lorad beside PEFT + PyTorch on the same rows and cores; see run_peer.py. PYTHON: an interpreter with
# tests/golden/requirements.txt installed.
exec "${PYTHON:-python3}" "$(dirname "$0")/run_peer.py" "$@"

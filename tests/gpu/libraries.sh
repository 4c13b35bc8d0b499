# libraries.sh: sourced by scripts that have set `lorad` to the program. Where NVIDIA's libraries are not installed but came with
# Python's packages (PyTorch's: nvidia-nccl-cu13 and the like), LD_LIBRARY_PATH gets the folders of those that lorad_cuda.so lacks.
# Run by itself it prints what that variable is then: export LD_LIBRARY_PATH=$(bash tests/gpu/libraries.sh build/lorad)

# packaged NAME: the folder of Python's packages that holds library NAME
packaged() {
    "${PYTHON:-python3}" - "$1" 2>/dev/null <<'END'
import glob, sys
import nvidia
print(*[path.rpartition("/")[0] for place in nvidia.__path__ for path in glob.glob(place + "/*/lib/" + sys.argv[1])][:1])
END
}

# missing LIBRARY: what the linker does not find of those that it is linked with, and cuDNN, which it opens from beside them
missing() {
    local found place
    found=$(ldd "$1")
    grep -q libcudart <<<"$found" || return 0 # the emulated one
    awk '/not found/ { print $1 }' <<<"$found"
    for place in $(awk '/libcudart|libcublasLt|libnccl/ && $3 ~ "/" { sub("/[^/]*$", "", $3); print $3 }' <<<"$found") \
        ${LD_LIBRARY_PATH//:/ }; do
        [ ! -e "$place/libcudnn.so.9" ] || return 0
    done
    ldconfig -p 2>/dev/null | grep -q 'libcudnn\.so\.9' || echo libcudnn.so.9
}

find_libraries() {
    local library=${LORAD_CUDA_LIBRARY:-$(dirname "$lorad")/lorad_cuda.so} name place
    LD_LIBRARY_PATH=${LD_LIBRARY_PATH:-}
    [ -e "$library" ] || return 0
    for name in $(missing "$library"); do
        place=$(packaged "$name") || true
        [[ -z $place || :$LD_LIBRARY_PATH: = *:$place:* ]] ||
            export LD_LIBRARY_PATH=$LD_LIBRARY_PATH${LD_LIBRARY_PATH:+:}$place
    done
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
    lorad=$(realpath "$1")
    find_libraries
    echo "$LD_LIBRARY_PATH"
else
    find_libraries
fi

#!/bin/sh
# Makes a bare host of the test bed one that tests/bench/fleet.py can measure: reached by ssh, with what stands for programs
# that the bed cannot bring. To be run as root on the host.
set -eu
export DEBIAN_FRONTEND=noninteractive

# With what takes minutes to unpack, and is the procedure's first step: to have it measured would be to measure dpkg.
apt-get install --yes --no-install-recommends openssh-server linux-headers-amd64 build-essential cmake ninja-build dkms

# What NVIDIA's packages bring, which are stubs in the bed: they tell the release, and "compile" a program that does nothing.
mkdir -p /usr/local/cuda-12.4/bin
cat > /usr/local/cuda-12.4/bin/nvcc << 'PROGRAM'
#!/bin/sh
for argument; do
    case $argument in
    --version) echo 'Cuda compilation tools, release 12.4, V12.4.131' ;;
    --output-file=*)
        printf '#!/bin/sh\n' > "${argument#*=}"
        chmod 755 "${argument#*=}"
        ;;
    esac
done
PROGRAM
cat > /usr/local/cuda-12.4/bin/cuobjdump << 'PROGRAM'
#!/bin/sh
echo 'ELF file 1: program.sm_80.cubin'
echo 'ELF file 2: program.sm_90.cubin'
PROGRAM
chmod 755 /usr/local/cuda-12.4/bin/*

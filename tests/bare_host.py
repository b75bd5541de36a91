"""The files in which a bare host tells what it is: by default the reference host, Ubuntu 22.04 with eight H800."""

from __future__ import annotations

from pathlib import Path

KERNEL = "5.15.0-94-generic"
PROC_VERSION = (
    f"Linux version {KERNEL} (buildd@lcy02-amd64-096) (gcc (Ubuntu 11.4.0-1ubuntu1~22.04) 11.4.0, "
    "GNU ld (GNU Binutils for Ubuntu) 2.38) #104-Ubuntu SMP Tue Jan 9 15:25:40 UTC 2024\n"
)
OS_RELEASE = 'PRETTY_NAME="Ubuntu 22.04.5 LTS"\nNAME="Ubuntu"\nVERSION_ID="22.04"\nID=ubuntu\nID_LIKE=debian\n'
SECURE_BOOT = "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
# GPUs and NVSwitches by address: device id and class.
BUS = {
    **{f"0000:{bus}:00.0": ("0x2324", "0x030200") for bus in ("18", "3a", "4b", "5c", "84", "ac", "b3", "b9")},
    **{f"0000:0{bus}:00.0": ("0x22a3", "0x068000") for bus in range(5, 9)},
}


def write(root: Path, files: dict[str, str | bytes]) -> None:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def cpuinfo(processors: int = 2, cores: int = 56, threads: int = 2) -> str:
    """What the kernel tells of each thread of each core of each processor; 2x Xeon Platinum 8480+ by default."""
    places = [(chip, core) for _thread in range(threads) for chip in range(processors) for core in range(cores)]
    return "".join(
        f"processor\t: {number}\nflags\t\t: fpu vme\nphysical id\t: {chip}\ncore id\t\t: {core}\n\n"
        for number, (chip, core) in enumerate(places)
    )


def build(root: Path) -> Path:
    """Make the reference host below `root`, on which nothing has been installed but its system, headers and gcc."""
    write(
        root,
        {
            "etc/os-release": OS_RELEASE,
            "etc/default/grub": "GRUB_DEFAULT=0\nGRUB_TIMEOUT=0\n",
            "proc/cpuinfo": cpuinfo(),
            "proc/meminfo": "MemTotal:       2113440000 kB\nMemFree:        2100000000 kB\n",
            "proc/sys/kernel/osrelease": f"{KERNEL}\n",
            "proc/version": PROC_VERSION,
            f"boot/vmlinuz-{KERNEL}": "",
            f"lib/modules/{KERNEL}/build/Makefile": "",
            "usr/lib/gcc/x86_64-linux-gnu/11/cc1": "",
            SECURE_BOOT: b"\x06\x00\x00\x00\x00",
            "run/systemd/system/.keep": "",
        },
    )
    for address, (device, kind) in BUS.items():
        folder = f"sys/bus/pci/devices/{address}"
        write(root, {f"{folder}/vendor": "0x10de\n", f"{folder}/device": f"{device}\n", f"{folder}/class": f"{kind}\n"})
    return root

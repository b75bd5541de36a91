# Copyright (c) 2026, llmfleet.serving contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""NVIDIA's data centre devices by their PCI device id, for hosts without a driver. Private to this collection."""

from __future__ import annotations

# The names are those that the driver gives, so they find the profiles of _gate_profiles. From NVIDIA's list of
# supported GPUs (README of NVIDIA/open-gpu-kernel-modules); recordings of hosts with H100 and with H200 have the same.
GPUS = {
    "0x20b0": "NVIDIA A100-SXM4-40GB",
    "0x20b2": "NVIDIA A100-SXM4-80GB",
    "0x20b3": "NVIDIA A100-SXM-64GB",
    "0x20b5": "NVIDIA A100 80GB PCIe",
    "0x20bd": "NVIDIA A800-SXM4-40GB",
    "0x20f1": "NVIDIA A100-PCIE-40GB",
    "0x20f3": "NVIDIA A800-SXM4-80GB",
    "0x20f5": "NVIDIA A800 80GB PCIe",
    "0x2321": "NVIDIA H100 NVL",
    "0x2322": "NVIDIA H800 PCIe",
    "0x2324": "NVIDIA H800",
    "0x2329": "NVIDIA H20",
    "0x232c": "NVIDIA H20-3e",
    "0x2330": "NVIDIA H100 80GB HBM3",
    "0x2331": "NVIDIA H100 PCIe",
    "0x2335": "NVIDIA H200",
    "0x2339": "NVIDIA H100",
    "0x233a": "NVIDIA H800 NVL",
    "0x2342": "NVIDIA GH200",
}
# From the PCI ID Project's list.
NVSWITCHES = {"0x1af1": "A100 NVSwitch", "0x22a3": "H100 NVSwitch"}

"""Sensors as the files that boards show, and programs as what they print."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

HWMON = "sys/class/hwmon"

ORIN_NANO = {
    f"{HWMON}/hwmon0/name": "tmp451\n",
    f"{HWMON}/hwmon1/name": "ina3221\n",
    f"{HWMON}/hwmon1/in1_label": "VDD_IN\n",
    f"{HWMON}/hwmon1/in1_enable": "1\n",
    f"{HWMON}/hwmon1/in1_input": "5072\n",
    f"{HWMON}/hwmon1/curr1_input": "1152\n",
    f"{HWMON}/hwmon1/in2_label": "VDD_CPU_GPU_CV\n",
    f"{HWMON}/hwmon1/in2_enable": "1\n",
    f"{HWMON}/hwmon1/in2_input": "5072\n",
    f"{HWMON}/hwmon1/curr2_input": "232\n",
    f"{HWMON}/hwmon1/in3_label": "VDD_SOC\n",
    f"{HWMON}/hwmon1/in3_enable": "1\n",
    f"{HWMON}/hwmon1/in3_input": "5072\n",
    f"{HWMON}/hwmon1/curr3_input": "304\n",
    f"{HWMON}/hwmon1/in7_label": "sum of shunt voltages\n",
    f"{HWMON}/hwmon1/in7_input": "8440\n",
}
"""Jetson Orin Nano, JetPack 5 and later: the first rail is the module's input."""

AGX_ORIN = {
    f"{HWMON}/hwmon3/name": "ina3221\n",
    f"{HWMON}/hwmon3/in1_label": "VDD_GPU_SOC\n",
    f"{HWMON}/hwmon3/in1_input": "19968\n",
    f"{HWMON}/hwmon3/curr1_input": "160\n",
    f"{HWMON}/hwmon3/in2_label": "VDD_CPU_CV\n",
    f"{HWMON}/hwmon3/in2_input": "19976\n",
    f"{HWMON}/hwmon3/curr2_input": "40\n",
    f"{HWMON}/hwmon3/in3_label": "VIN_SYS_5V0\n",
    f"{HWMON}/hwmon3/in3_input": "5016\n",
    f"{HWMON}/hwmon3/curr3_input": "648\n",
    f"{HWMON}/hwmon4/name": "ina3221\n",
    f"{HWMON}/hwmon4/in1_label": "NC\n",
    f"{HWMON}/hwmon4/in1_input": "100\n",
    f"{HWMON}/hwmon4/curr1_input": "100000\n",
    f"{HWMON}/hwmon4/in2_label": "VDDQ_VDD2_1V8AO\n",
    f"{HWMON}/hwmon4/in2_input": "5016\n",
    f"{HWMON}/hwmon4/curr2_input": "208\n",
    f"{HWMON}/hwmon4/in3_label": "NC\n",
    f"{HWMON}/hwmon4/in3_enable": "0\n",
    f"{HWMON}/hwmon4/in3_input": "100\n",
    f"{HWMON}/hwmon4/curr3_input": "100000\n",
}
"""Jetson AGX Orin: two chips, no rail for all, two channels not connected."""

JETSON_NANO = {
    f"{HWMON}/hwmon2/name": "ina3221\n",
    f"{HWMON}/hwmon2/in1_label": "POM_5V_IN\n",
    f"{HWMON}/hwmon2/in1_input": "5080\n",
    f"{HWMON}/hwmon2/curr1_input": "400\n",
    f"{HWMON}/hwmon2/in2_label": "POM_5V_GPU\n",
    f"{HWMON}/hwmon2/in2_input": "5080\n",
    f"{HWMON}/hwmon2/curr2_input": "20\n",
    f"{HWMON}/hwmon2/in3_label": "POM_5V_CPU\n",
    f"{HWMON}/hwmon2/in3_input": "5080\n",
    f"{HWMON}/hwmon2/curr3_input": "90\n",
}

INA226 = {
    f"{HWMON}/hwmon0/name": "cpu_thermal\n",
    f"{HWMON}/hwmon0/temp1_input": "48300\n",
    f"{HWMON}/hwmon2/name": "ina226\n",
    f"{HWMON}/hwmon2/in0_input": "7\n",
    f"{HWMON}/hwmon2/in1_input": "5085\n",
    f"{HWMON}/hwmon2/curr1_input": "742\n",
    f"{HWMON}/hwmon2/power1_input": "3775000\n",
    f"{HWMON}/hwmon2/update_interval": "140\n",
}
"""A sensor that its owner has put into the supply of a board."""

INA219_OLD = {
    f"{HWMON}/hwmon1/name": "ina219\n",
    f"{HWMON}/hwmon1/in0_input": "74\n",
    f"{HWMON}/hwmon1/in1_input": "5012\n",
    f"{HWMON}/hwmon1/curr1_input": "740\n",
}

SCMI = {
    f"{HWMON}/hwmon0/name": "scmi_sensors\n",
    f"{HWMON}/hwmon0/temp1_input": "41000\n",
    f"{HWMON}/hwmon0/power1_input": "2150000\n",
    f"{HWMON}/hwmon0/power1_label": "A72_POW\n",
    f"{HWMON}/hwmon0/energy1_input": "5500000\n",
    f"{HWMON}/hwmon0/energy1_label": "A72_ENE\n",
    f"{HWMON}/hwmon0/energy2_input": "800000\n",
    f"{HWMON}/hwmon0/energy2_label": "A53_ENE\n",
}
"""An Arm board whose firmware counts energy of each cluster."""

ACPI_METER = {
    f"{HWMON}/hwmon4/name": "power_meter\n",
    f"{HWMON}/hwmon4/power1_average": "92000000\n",
    f"{HWMON}/hwmon4/power1_average_interval": "1000\n",
}

_BAT = "sys/class/power_supply"

THINKPAD = {
    f"{_BAT}/AC/type": "Mains\n",
    f"{_BAT}/AC/online": "0\n",
    f"{_BAT}/BAT0/type": "Battery\n",
    f"{_BAT}/BAT0/status": "Discharging\n",
    f"{_BAT}/BAT0/power_now": "6412000\n",
    f"{_BAT}/BAT0/voltage_now": "11520000\n",
    f"{_BAT}/BAT1/type": "Battery\n",
    f"{_BAT}/BAT1/status": "Not charging\n",
    f"{_BAT}/BAT1/power_now": "0\n",
    f"{_BAT}/BAT1/voltage_now": "12100000\n",
}
"""Two batteries, of which one at a time gives power."""

PHONE_LIKE = {
    f"{_BAT}/axp20x-battery/type": "Battery\n",
    f"{_BAT}/axp20x-battery/status": "Discharging\n",
    f"{_BAT}/axp20x-battery/current_now": "-412000\n",
    f"{_BAT}/axp20x-battery/voltage_now": "3920000\n",
    f"{_BAT}/axp20x-usb/type": "USB\n",
    f"{_BAT}/axp20x-usb/online": "0\n",
    f"{_BAT}/hidpp_battery_0/type": "Battery\n",
    f"{_BAT}/hidpp_battery_0/scope": "Device\n",
    f"{_BAT}/hidpp_battery_0/status": "Charging\n",
}
"""A fuel gauge that shows a discharging current as negative, and a mouse beside it."""

PI5_MODEL = {"proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0"}

PMIC = """\
 3V7_WL_SW_A current(0)=0.00000000A
   3V3_SYS_A current(1)=0.06245952A
   1V8_SYS_A current(2)=0.16102850A
  DDR_VDD2_A current(3)=0.00780744A
  DDR_VDDQ_A current(4)=0.00000000A
   1V1_SYS_A current(5)=0.17566740A
    0V8_SW_A current(6)=0.32791250A
  VDD_CORE_A current(7)=0.94657990A
   3V3_DAC_A current(17)=0.00036630A
   3V3_ADC_A current(18)=0.00042735A
   0V8_AON_A current(16)=0.00579975A
      HDMI_A current(22)=0.01367520A
 3V7_WL_SW_V volt(8)=3.79999600V
   3V3_SYS_V volt(9)=3.30632200V
   1V8_SYS_V volt(10)=1.79828900V
  DDR_VDD2_V volt(11)=1.10292900V
  DDR_VDDQ_V volt(12)=0.60476130V
   1V1_SYS_V volt(13)=1.10439400V
    0V8_SW_V volt(14)=0.80256330V
  VDD_CORE_V volt(15)=0.72097620V
   3V3_DAC_V volt(20)=3.30494200V
   3V3_ADC_V volt(21)=3.30219400V
   0V8_AON_V volt(19)=0.79736190V
      HDMI_V volt(23)=5.07056000V
     EXT5V_V volt(24)=5.06788000V
      BATT_V volt(25)=3.01110800V
"""
"""A Raspberry Pi 5 at rest."""

PMIC_WATTS = (
    0.06245952 * 3.306322
    + 0.1610285 * 1.798289
    + 0.00780744 * 1.102929
    + 0.1756674 * 1.104394
    + 0.3279125 * 0.8025633
    + 0.9465799 * 0.7209762
    + 0.0003663 * 3.304942
    + 0.00042735 * 3.302194
    + 0.00579975 * 0.7973619
    + 0.0136752 * 5.07056
)
"""Its rails, volts times amperes by hand; two of the twelve carry nothing."""


def install(folder: Path, name: str, code: str) -> Path:
    """Make `code`, Python, a program of that name in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f"#!{sys.executable} -S\n{code}")
    path.chmod(0o755)
    return path


def prints(text: str) -> str:
    """A program that prints this."""
    return f"import sys\nsys.stdout.write({text!r})\n"


def without(files: Mapping[str, str], part: str) -> dict[str, str]:
    """The files whose names lack `part`."""
    return {name: text for name, text in files.items() if part not in name}

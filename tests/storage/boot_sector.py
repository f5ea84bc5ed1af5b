# SPDX-License-Identifier: LGPL-2.1-or-later
"""Guests of 512 bytes for 'persistctl image create', each a machine as it is seen from outside.
They speak on the second serial port, for none of them has a driver of virtio."""

from __future__ import annotations

PORT = ("isa-serial,iobase=0x2f8,irq=3,chardev=port",)
_AT = 0x7C00
# xor ax, ax; ds, es, ss = 0; sp = 0x7c00; sti
_BEGIN = bytes.fromhex("31c08ed88ec08ed0bc007cfb")
# Until the zero at [si]: wait for the port, write.
_SAY = bytes.fromhex("ac84c0741288c4bafd02eca82074fb88e0baf802eeebe9c3")


class Sector:
    """A program, step by step; image() is the disk."""

    def __init__(self) -> None:
        self._steps: list[bytes | str] = []

    def say(self, *lines: str) -> Sector:
        """Lines on the port."""
        self._steps += [f"{line}\n" for line in lines]
        return self

    def write(self) -> Sector:
        """The program itself once more, into the second sector of the disk, by the BIOS."""
        # mov ax, 0x0301; mov cx, 2; mov dx, 0x80; mov bx, 0x7c00; int 0x13
        self._steps.append(bytes.fromhex("b80103b90200ba8000bb007ccd13"))
        return self

    def power_off(self) -> Sector:
        """As ACPI has it on QEMU's pc."""
        self._steps.append(bytes.fromhex("ba0406b80020ef"))
        return self

    def restart(self) -> Sector:
        """By the chip set's reset register."""
        self._steps.append(bytes.fromhex("baf90cb006ee"))
        return self

    def image(self, size: int = 1 << 20) -> bytes:
        """The disk: after its steps the program does nothing, for ever."""
        end = bytes.fromhex("f4ebfd")
        say_at = _AT + len(_BEGIN) + 3
        text_at = (
            say_at + len(_SAY) + sum(6 if isinstance(s, str) else len(s) for s in self._steps) + len(end)
        )
        code, texts = _BEGIN + b"\xe9" + len(_SAY).to_bytes(2, "little") + _SAY, b""
        for step in self._steps:
            if isinstance(step, str):
                # mov si, text; call say
                back = say_at - (_AT + len(code) + 6)
                code += b"\xbe" + (text_at + len(texts)).to_bytes(2, "little")
                code += b"\xe8" + back.to_bytes(2, "little", signed=True)
                texts += step.encode() + b"\0"
            else:
                code += step
        program = code + end + texts
        assert len(program) <= 510
        return (program.ljust(510, b"\0") + b"\x55\xaa").ljust(size, b"\0")


def good() -> Sector:
    """What a machine does that is sealed: its disk changes."""
    return Sector().say("running").write().say("output: hello from the script", "success").power_off()

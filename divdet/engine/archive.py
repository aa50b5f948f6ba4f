"""Checks of the zip archives that ``torch.save`` writes: ``torch.load`` ignores their checksums."""

import os
import struct
import zipfile
from pathlib import Path

_LOCAL_HEADER = struct.Struct("<4s5H3L2H")  # in front of each record
_DESCRIPTOR, _UTF8 = 0x8, 0x800  # flags: sizes and checksum follow the record; its name is UTF-8
_FOLDER = 0x10  # attribute: zipfile reads such a record as empty


def is_archive(path: str | Path) -> bool:
    """Whether a file starts like a zip archive; ``torch.save``'s older format is none and has no checksums."""
    with open(path, "rb") as file:
        return file.read(4) == b"PK\3\4"


def check_archive(path: str | Path) -> None:
    """Checks every record's checksum, and that the archive's directory agrees with the records' own headers.

    Raises:
        zipfile.BadZipFile: where they differ, and for what ``torch.save`` never writes: compressed or encrypted
            records, duplicate names, records that together are larger than the file.
        OSError: where the file cannot be read.
        Exception: ``zipfile`` raises a few other kinds for damaged archives.
    """
    with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        if len({entry.filename.lower() for entry in entries}) < len(entries):  # torch's look-up ignores case
            raise zipfile.BadZipFile("two of its records have the same name")
        for entry in entries:
            if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
                raise zipfile.BadZipFile(f"its record {entry.filename} is compressed")
            if entry.flag_bits & ~(_DESCRIPTOR | _UTF8) or entry.is_dir() or entry.external_attr & _FOLDER:
                raise zipfile.BadZipFile(f"its record {entry.filename} is encrypted or a folder")
            file.seek(entry.header_offset)
            signature, _, flags, method, _, _, crc, *sizes, _, _ = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
            local = (crc, *sizes)
            known = local == (entry.CRC, entry.file_size, entry.file_size) or 0xFFFFFFFF in sizes  # zip64
            later = flags & _DESCRIPTOR and local == (0, 0, 0)
            if signature != b"PK\3\4" or (flags, method) != (entry.flag_bits, 0) or not (known or later):
                raise zipfile.BadZipFile(f"the header of its record {entry.filename} does not match the directory")
        if sum(entry.file_size for entry in entries) > os.fstat(file.fileno()).st_size:
            raise zipfile.BadZipFile("its records are larger than the file")
        damaged = archive.testzip()
        if damaged:
            raise zipfile.BadZipFile(f"its record {damaged} does not match its checksum")

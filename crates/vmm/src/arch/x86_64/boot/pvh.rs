//! A kernel as an ELF file that is entered in protected mode, without paging, by the address in a note of Xen's.
//!
//! Xen's "x86/HVM direct boot ABI" (docs/misc/pvh.pandoc in its sources) says how.

use super::Error;
use elf::ElfStream;
use elf::endian::LittleEndian;
use elf::note::Note;
use elf::segment::ProgramHeader;
use std::fs::File;
use vm_memory::GuestAddress;

/// `XEN_ELFNOTE_PHYS32_ENTRY`: the physical address of the entry.
const PHYS32_ENTRY: u64 = 18;

/// A kernel with a PVH entry.
#[derive(Debug)]
pub struct PvhKernel {
    file: File,
    entry: GuestAddress,
    segments: Vec<Segment>,
}

/// What goes from the file to one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    /// Where in the guest's memory.
    pub(crate) at: GuestAddress,
    /// Where in the file.
    pub(crate) offset: u64,
    /// How many bytes of the file.
    pub(crate) length: u64,
    /// How many bytes of memory: what is beyond the file's is zero.
    pub(crate) memory: u64,
}

impl PvhKernel {
    /// Reads the headers and the note.
    pub(super) fn read(file: File, path: String) -> Result<PvhKernel, Error> {
        let fail = |error: elf::ParseError| Error::Elf { path: path.clone(), why: error.to_string() };
        let opened = file.try_clone().map_err(|source| Error::Read { path: path.clone(), source })?;
        let mut headers = ElfStream::<LittleEndian, _>::open_stream(opened).map_err(fail)?;
        let all: Vec<_> = headers.segments().to_vec();
        let mut entry = None;
        for header in all.iter().filter(|header| header.p_type == elf::abi::PT_NOTE) {
            for note in headers.segment_data_as_notes(header).map_err(fail)? {
                entry = entry.or(phys32_entry(&note));
            }
        }
        let entry = entry.ok_or_else(|| Error::NoPvhEntry(path.clone()))?;
        let segments = all.iter().filter_map(loaded).collect();
        Ok(PvhKernel { file, entry, segments })
    }

    /// The file.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Where the first instruction is.
    pub(crate) fn entry(&self) -> GuestAddress {
        self.entry
    }

    /// What goes where.
    pub(crate) fn segments(&self) -> &[Segment] {
        &self.segments
    }
}

fn loaded(header: &ProgramHeader) -> Option<Segment> {
    (header.p_type == elf::abi::PT_LOAD).then_some(Segment {
        at: GuestAddress(header.p_paddr),
        offset: header.p_offset,
        length: header.p_filesz,
        memory: header.p_memsz.max(header.p_filesz),
    })
}

/// The address in that note, of 4 or of 8 bytes.
fn phys32_entry(note: &Note<'_>) -> Option<GuestAddress> {
    let Note::Unknown(note) = note else { return None };
    if note.n_type != PHYS32_ENTRY || note.name.strip_suffix(b"\0").unwrap_or(note.name) != b"Xen" {
        return None;
    }
    let address = match note.desc.len() {
        4 => u32::from_le_bytes(note.desc.try_into().ok()?).into(),
        8 => u64::from_le_bytes(note.desc.try_into().ok()?),
        _ => return None,
    };
    Some(GuestAddress(address))
}

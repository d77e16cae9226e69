//! Makes of a static program that may lie at any address (elf(5), `ET_DYN`) one that lies at an address that is chosen when its file is written (`ET_EXEC`): its constants with
//! addresses in them are in the file then, and all processes share them, where a start otherwise writes them anew in each.
//!
//! What is prepared is its image for the address 0, and where in that an address is to be added. Relocations that are no addition (`R_*_IRELATIVE`: the C library chooses functions by
//! the processor) stay with the start. The C library takes where it lies from its own instructions, and all other program headers relatively to that: only those by which
//! the kernel maps the file are absolute.

/// An image for the address 0, and the offsets in it of the words of eight bytes that addresses are to be added to.
pub(crate) struct Placeable {
    pub(crate) image: Vec<u8>,
    pub(crate) words: Vec<u32>,
}

const EXECUTABLE: u16 = 2;
const SHARED_OBJECT: u16 = 3;
const LOAD: u32 = 1;
const DYNAMIC: u32 = 2;
/// Tags of the dynamic section.
const RELOCATIONS: u64 = 7;
const RELOCATIONS_SIZE: u64 = 8;
const RELATIVE_COUNT: u64 = 0x6fff_fff9;
/// Bytes of a header of the program, of an entry of the dynamic section, and of a relocation.
const HEADER: usize = 56;
const ENTRY: usize = 16;
const RELOCATION: u64 = 24;
/// Fields of the file's header.
const KIND: usize = 16;
const START: usize = 24;
const HEADERS: usize = 32;
const HEADERS_COUNT: usize = 56;

/// Of a program header: its kind, its offset in the file, its address, and its length there.
struct Part {
    kind: u32,
    offset: u64,
    address: u64,
    length: u64,
}

impl Placeable {
    /// `relative` is the architecture's number of a relocation that is an address added to a number.
    pub(crate) fn new(mut image: Vec<u8>, relative: u64) -> Result<Placeable, String> {
        if !image.starts_with(b"\x7fELF\x02\x01") || word(&image, KIND)? as u16 != SHARED_OBJECT {
            return Err("it is no little-endian ELF file of 64 bits that may lie anywhere".to_owned());
        }
        let headers = word(&image, HEADERS)? as usize;
        let count = word(&image, HEADERS_COUNT)? as usize & 0xffff;
        let parts = (0..count).map(|number| part(&image, headers + number * HEADER)).collect::<Result<Vec<_>, _>>()?;
        let mut words = vec![START];
        for (number, _) in parts.iter().enumerate().filter(|(_, part)| part.kind == LOAD) {
            // Its address, and the one that is called physical.
            words.extend([headers + number * HEADER + 16, headers + number * HEADER + 24]);
        }
        let [table, size, relatives] = dynamic(&image, &parts)?;
        let (first, all) = (word(&image, table)?, word(&image, size)? / RELOCATION);
        let count = word(&image, relatives)?;
        if count == 0 || count > all {
            return Err(format!("of {all} relocations {count} are relative, which come first"));
        }
        for number in 0..count {
            let at = offset(&parts, first + number * RELOCATION)?;
            let (address, kind, number) = (word(&image, at)?, word(&image, at + 8)?, word(&image, at + 16)?);
            if kind != relative {
                return Err(format!("a relocation of kind {kind:#x} is among the relative ones"));
            }
            let at = offset(&parts, address)?;
            set(&mut image, at, number)?;
            words.push(at);
        }
        // The start finds the others alone.
        set(&mut image, table, first + count * RELOCATION)?;
        set(&mut image, size, (all - count) * RELOCATION)?;
        set(&mut image, relatives, 0)?;
        image[KIND..KIND + 2].copy_from_slice(&EXECUTABLE.to_le_bytes());
        let words = words.into_iter().map(|at| u32::try_from(at).map_err(|_| "it is too long".to_owned()));
        Ok(Placeable { words: words.collect::<Result<_, _>>()?, image })
    }
}

/// The places of the values of the three tags.
fn dynamic(image: &[u8], parts: &[Part]) -> Result<[usize; 3], String> {
    let section = parts.iter().find(|part| part.kind == DYNAMIC).ok_or("it has no dynamic section")?;
    let mut found = [None; 3];
    for at in (section.offset as usize..).step_by(ENTRY).take(section.length as usize / ENTRY) {
        let tag = word(image, at)?;
        if let Some(which) = [RELOCATIONS, RELOCATIONS_SIZE, RELATIVE_COUNT].iter().position(|wanted| *wanted == tag) {
            found[which] = Some(at + 8);
        }
    }
    match found {
        [Some(table), Some(size), Some(relatives)] => Ok([table, size, relatives]),
        _ => Err("it does not say where its relocations are, and how many are relative".to_owned()),
    }
}

fn part(image: &[u8], at: usize) -> Result<Part, String> {
    Ok(Part {
        kind: word(image, at)? as u32,
        offset: word(image, at + 8)?,
        address: word(image, at + 16)?,
        length: word(image, at + 32)?,
    })
}

/// Where in the file a word is that has an address in memory.
fn offset(parts: &[Part], address: u64) -> Result<usize, String> {
    let holds = |part: &&Part| part.kind == LOAD && (part.address..part.address + part.length).contains(&address);
    let part = parts.iter().find(holds).ok_or_else(|| format!("{address:#x} is in no part of the file"))?;
    Ok((part.offset + (address - part.address)) as usize)
}

fn word(image: &[u8], at: usize) -> Result<u64, String> {
    let bytes = image.get(at..).and_then(|rest| rest.first_chunk());
    bytes.map(|bytes| u64::from_le_bytes(*bytes)).ok_or_else(|| format!("it ends before {at:#x}"))
}

fn set(image: &mut [u8], at: usize, value: u64) -> Result<(), String> {
    let bytes = image.get_mut(at..).and_then(|rest| rest.first_chunk_mut());
    *bytes.ok_or_else(|| format!("it ends before {at:#x}"))? = value.to_le_bytes();
    Ok(())
}

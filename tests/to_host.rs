//! A program for a guest: it connects to the port of its host over vsock where the agents of machines connect, and becomes the program that its arguments name, whose output
//! goes there. busybox has none that speaks vsock, and nothing else is in all images.

/// Where such a file is loaded.
const ADDRESS: u64 = 0x40_0000;
/// Bytes before its code.
const HEADERS: u64 = 64 + 56;

/// Instructions of x86-64, and the address of the port behind them.
const CODE: &[&[u8]] = &[
    // socket(AF_VSOCK, SOCK_STREAM, 0): mov edi, 40; mov esi, 1; xor edx, edx; mov eax, 41; syscall; mov ebx, eax
    b"\xbf\x28\0\0\0\xbe\x01\0\0\0\x31\xd2\xb8\x29\0\0\0\x0f\x05\x89\xc3",
    // connect(it, address, 16): mov edi, eax; lea rsi, [rip + 0x42]; mov edx, 16; mov eax, 42; syscall
    b"\x89\xc7\x48\x8d\x35\x42\0\0\0\xba\x10\0\0\0\xb8\x2a\0\0\0\x0f\x05",
    // test eax, eax; jnz to the end
    b"\x85\xc0\x75\x26",
    // dup2(it, 1): mov edi, ebx; mov esi, 1; mov eax, 33; syscall
    b"\x89\xdf\xbe\x01\0\0\0\xb8\x21\0\0\0\x0f\x05",
    // execve(argv[1], argv + 1, envp): lea rsi, [rsp + 16]; mov rdi, [rsi]; mov rcx, [rsp]; lea rdx, [rsp + rcx * 8 + 16]; mov eax, 59; syscall
    b"\x48\x8d\x74\x24\x10\x48\x8b\x3e\x48\x8b\x0c\x24\x48\x8d\x54\xcc\x10\xb8\x3b\0\0\0\x0f\x05",
    // exit(1), where any of it failed: mov edi, 1; mov eax, 60; syscall
    b"\xbf\x01\0\0\0\xb8\x3c\0\0\0\x0f\x05",
    // struct sockaddr_vm: port 1024 of address 2.
    b"\x28\0\0\0\0\x04\0\0\x02\0\0\0\0\0\0\0",
];

/// The file: an ELF header and one segment, which is all of it.
pub(crate) fn program() -> Vec<u8> {
    let code = CODE.concat();
    let length = HEADERS + code.len() as u64;
    let longs = |longs: &[u64]| longs.iter().flat_map(|long| long.to_le_bytes()).collect::<Vec<_>>();
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    // An executable for x86-64, of the one version there is.
    file.extend(b"\x02\0\x3e\0\x01\0\0\0");
    file.extend(longs(&[ADDRESS + HEADERS, 64, 0]));
    file.extend(b"\0\0\0\0\x40\0\x38\0\x01\0\0\0\0\0\0\0");
    // To be read and run.
    file.extend(b"\x01\0\0\0\x05\0\0\0");
    file.extend(longs(&[0, ADDRESS, ADDRESS, length, length, 4096]));
    file.extend(code);
    file
}

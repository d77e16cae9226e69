# Guests that are longer than a line. All begin at 1 MiB in 32-bit protected mode with flat segments, as PVH says. Each goes around for ever, and writes the last
# byte of how often it did to its serial port; where something is not as it should be, it faults for good.

.set CODE, 0x100000
.set STACK, 0x210000
.set LOCAL_APIC, 0xfee00000
.set IO_APIC, 0xfec00000
# The first virtual device, which gives random numbers.
.set DEVICE, 0xc0000000
.set DEVICE_LINE, 5
# The guest's queue of 8 entries, and what it asks to be filled.
.set DESCRIPTORS, 0x200000
.set AVAILABLE, 0x201000
.set USED, 0x202000
.set BUFFER, 0x203000
# What a handler of interrupts leaves behind.
.set SEEN, 0x204000
# Where processors begin that are woken, and what they count in, each in a word of its own.
.set WOKEN, 0x8000
.set COUNTS, 0x9000

.macro went_around
    incl %ecx
    movb %cl, %al
    movw $0x3f8, %dx
    outb %al, %dx
.endm

# The local APIC takes interrupts, and there is a handler for vector 0x40, and for no other: what comes by one of them ends the guest.
.macro take_interrupts guest, table
    movl $STACK, %esp
    lidt CODE + \table - \guest
    movl $0x1ff, LOCAL_APIC + 0xf0
.endm

.macro interrupt_table guest, handler
    .word 0x41 * 8 - 1
    .long CODE + 11f - \guest
11: .fill 0x40, 8, 0
    .word \handler - \guest, 0x10, 0x8e00, CODE >> 16
.endm

# Goes to sleep until an interrupt was handled. One that is pending ends the sleep at once: `sti` holds interrupts off for one instruction more. They are off but
# for that, so that a handler may change any register which is of no use behind it.
.macro sleep
    sti
    hlt
    cli
.endm

# The end of a handler, which goes back by `%edi`: a KVM that carries out instructions in software has no `iret` of protected mode.
.macro handled
    movl $0, LOCAL_APIC + 0xb0
    popl %edi
    addl $8, %esp
    sti
    jmp *%edi
.endm

.pushsection .rodata.guests, "a", @progbits
.code32

# Asks the device for random numbers, and sleeps until its interrupt says that they are there. Who rings the doorbell is heard by the kernel alone, and the line is
# pulled by it: the device's registers know of neither.
.globl guest_of_a_device, guest_of_a_device_end
guest_of_a_device:
    take_interrupts guest_of_a_device, device_interrupts
    # The line, at its edge, is vector 0x40 of processor 0.
    movl $0x10 + 2 * DEVICE_LINE, IO_APIC
    movl $0x40, IO_APIC + 0x10
    movl $0x11 + 2 * DEVICE_LINE, IO_APIC
    movl $0, IO_APIC + 0x10
    # "virt", version 2, entropy.
    cmpl $0x74726976, DEVICE
    jne wrong
    cmpl $2, DEVICE + 4
    jne wrong
    cmpl $4, DEVICE + 8
    jne wrong
    # It is reset, seen, and has a driver.
    movl $0, DEVICE + 0x70
    movl $1, DEVICE + 0x70
    movl $3, DEVICE + 0x70
    # Of its features VIRTIO_F_VERSION_1 alone is accepted.
    movl $1, DEVICE + 0x14
    testl $1, DEVICE + 0x10
    jz wrong
    movl $0, DEVICE + 0x24
    movl $0, DEVICE + 0x20
    movl $1, DEVICE + 0x24
    movl $1, DEVICE + 0x20
    movl $11, DEVICE + 0x70
    testl $8, DEVICE + 0x70
    jz wrong
    # Its queue.
    movl $0, DEVICE + 0x30
    cmpl $8, DEVICE + 0x34
    jb wrong
    movl $8, DEVICE + 0x38
    movl $DESCRIPTORS, DEVICE + 0x80
    movl $0, DEVICE + 0x84
    movl $AVAILABLE, DEVICE + 0x90
    movl $0, DEVICE + 0x94
    movl $USED, DEVICE + 0xa0
    movl $0, DEVICE + 0xa4
    movl $1, DEVICE + 0x44
    movl $15, DEVICE + 0x70
    cmpl $15, DEVICE + 0x70
    jne wrong
    # One request, for 16 bytes. Each place of the ring that is offered holds its number, 0, as it is.
    movl $BUFFER, DESCRIPTORS
    movl $16, DESCRIPTORS + 8
    movw $2, DESCRIPTORS + 12
    xorl %ecx, %ecx
ask:
    movl $0, BUFFER
    movl $0, BUFFER + 4
    movl $0, BUFFER + 8
    movl $0, BUFFER + 12
    leal 1(%ecx), %ebx
    movw %bx, AVAILABLE + 2
    movl $0, DEVICE + 0x50
unanswered:
    sleep
    cmpw %bx, SEEN
    jne unanswered
    # What is answered is request 0, with 16 bytes, and they are there.
    movl %ecx, %esi
    andl $7, %esi
    cmpl $0, USED + 4(, %esi, 8)
    jne wrong
    cmpl $16, USED + 8(, %esi, 8)
    jne wrong
    movl BUFFER, %eax
    orl BUFFER + 4, %eax
    orl BUFFER + 8, %eax
    orl BUFFER + 12, %eax
    jz wrong
    went_around
    jmp ask
wrong:
    ud2
device_interrupt:
    movl DEVICE + 0x60, %eax
    movl %eax, DEVICE + 0x64
    movw USED + 2, %ax
    movw %ax, SEEN
    handled
device_interrupts:
    interrupt_table guest_of_a_device, device_interrupt
guest_of_a_device_end:

# Wakes all other processors, of which there are three, by interrupts of its local APIC. They count in memory, each in the word of the number that it has by what it
# says that it is. Once around is when each of them has counted on.
.globl guest_of_four, guest_of_four_end
guest_of_four:
    cld
    movl $CODE + woken - guest_of_four, %esi
    movl $WOKEN, %edi
    movl $woken_end - woken, %ecx
    rep movsb
    movl $0x1ff, LOCAL_APIC + 0xf0
    # INIT to all but this one, and where they begin.
    movl $0xc4500, LOCAL_APIC + 0x300
    movl $0xc4600 | WOKEN >> 12, LOCAL_APIC + 0x300
    xorl %ecx, %ecx
around:
    movl $1, %ebx
each:
    movl COUNTS(, %ebx, 4), %eax
not_yet:
    pause
    cmpl COUNTS(, %ebx, 4), %eax
    je not_yet
    incl %ebx
    cmpl $4, %ebx
    jb each
    went_around
    jmp around
.code16
woken:
    xorw %ax, %ax
    movw %ax, %ds
    movl $1, %eax
    cpuid
    shrl $24, %ebx
    shlw $2, %bx
counts:
    incl COUNTS(%bx)
    pause
    jmp counts
woken_end:
.code32
guest_of_four_end:

# Sleeps until the timer of its local APIC interrupts it, again and again.
.globl guest_of_a_timer, guest_of_a_timer_end
guest_of_a_timer:
    take_interrupts guest_of_a_timer, timer_interrupts
    # As fast as it counts, periodically, as vector 0x40.
    movl $0xb, LOCAL_APIC + 0x3e0
    movl $0x20040, LOCAL_APIC + 0x320
    movl $0x40000, LOCAL_APIC + 0x380
    xorl %ecx, %ecx
ticks:
    sleep
    cmpl %ecx, SEEN
    je ticks
    went_around
    jmp ticks
timer_interrupt:
    incl SEEN
    handled
timer_interrupts:
    interrupt_table guest_of_a_timer, timer_interrupt
guest_of_a_timer_end:

.popsection
.code64

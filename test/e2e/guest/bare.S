# bare.S - the guest of most end-to-end tests and of `pagewire demo --qemu`: a multiboot program on the bare machine.
#
#   qemu-system-x86_64 -kernel bare.bin -append "mode=sparse mb=64 rate=5000" -serial stdio
#
#   mode=idle|sparse|half|full|mixed   what it does to a page: nothing; 32 bytes in it; one half of it; all of it;
#                                      any of these, or fill it with zeros or another byte
#   mb=N       working set in MiB, from 16 MiB on (default 64)
#   rate=N     pages touched in a second (default 5000); it takes what time it needs and does not catch up
#
# It fills the working set with rows that look like records, prints READY, then touches pages at random, and every
# 20 ms prints "T <ticks> <pages touched>": decimal, hexadecimal. Everything is deterministic but the time it takes.
#
#   as --32 -o bare.o bare.S && ld -m elf_i386 --oformat binary -Ttext 0x100000 -o bare.bin bare.o
#
# It is a flat file: the multiboot header says where it goes.

        .set    LOAD, 0x100000
        .set    STACK, 0x200000
        .set    BASE, 0x1000000                 # the working set
        .set    VARIABLES, 0x110000             # not among the code: TCG would translate that again after each write
        .set    COM1, 0x3f8
        .set    HZ, 100                         # timer interrupts a second
        .set    PIT_HZ, 1193182
        .set    HEADER_FLAGS, 0x10000           # address fields are valid

        .text
        .code32
        .globl  _start
_start: jmp     start

        .balign 4
header: .long   0x1badb002, HEADER_FLAGS, -(0x1badb002 + HEADER_FLAGS)
        .long   header, LOAD, end, end, start   # header, load address, end of file, end of bss, entry

start:  mov     $STACK, %esp
        mov     16(%ebx), %esi                  # multiboot information: the command line
        lgdt    gdt_pointer                     # what the loader left may be gone: a GDT of our own
        ljmp    $8, $1f
1:      mov     $16, %eax
        mov     %eax, %ds
        mov     %eax, %es
        mov     %eax, %fs
        mov     %eax, %gs
        mov     %eax, %ss

        mov     %esi, cmdline
        mov     $VARIABLES, %edi
        mov     $row_0, %esi
        mov     $(end - row_0) / 4, %ecx
        rep movsl
        movb    $'s', mode
        movl    $64, megabytes
        movl    $5000, rate
        movl    $2463534242, seed

        mov     $COM1 + 1, %dx                  # COM1: no interrupts, 115200 8n1, FIFO on
        xor     %eax, %eax
        out     %al, %dx
        mov     $COM1 + 3, %dx
        mov     $0x80, %al
        out     %al, %dx
        mov     $COM1, %dx
        mov     $1, %al
        out     %al, %dx
        inc     %dx
        xor     %eax, %eax
        out     %al, %dx
        mov     $COM1 + 3, %dx
        mov     $3, %al
        out     %al, %dx
        dec     %dx
        mov     $1, %al
        out     %al, %dx

        mov     $mode_key, %edi                 # the command line
        call    option
        jc      1f
        mov     (%esi), %al
        mov     %al, mode
1:      mov     $mb_key, %edi
        call    option
        jc      1f
        call    number
        mov     %eax, megabytes
1:      mov     $rate_key, %edi
        call    option
        jc      1f
        call    number
        mov     %eax, rate
1:

        call    fill

        mov     $irq0, %eax                     # IDT: one gate, vector 0x20
        mov     $idt + 0x20 * 8, %edi
        mov     %ax, (%edi)
        movw    $8, 2(%edi)
        movw    $0x8e00, 4(%edi)
        shr     $16, %eax
        mov     %ax, 6(%edi)
        lidt    idt_pointer
        mov     $0x11, %al                      # PICs to vectors 0x20 and 0x28, all but the timer masked
        out     %al, $0x20
        out     %al, $0xa0
        mov     $0x20, %al
        out     %al, $0x21
        mov     $0x28, %al
        out     %al, $0xa1
        mov     $4, %al
        out     %al, $0x21
        mov     $2, %al
        out     %al, $0xa1
        mov     $1, %al
        out     %al, $0x21
        out     %al, $0xa1
        mov     $0xfe, %al
        out     %al, $0x21
        mov     $0xff, %al
        out     %al, $0xa1
        mov     $0x34, %al                      # PIT channel 0, mode 2
        out     %al, $0x43
        mov     $(PIT_HZ / HZ) & 0xff, %al
        out     %al, $0x40
        mov     $(PIT_HZ / HZ) >> 8, %al
        out     %al, $0x40

        mov     $ready, %esi
        call    print

        mov     rate, %eax                      # pages in a tick, rounded up
        add     $HZ - 1, %eax
        xor     %edx, %edx
        mov     $HZ, %ecx
        div     %ecx
        mov     %eax, batch

# One round a tick. The touching runs with interrupts off; a tick that passes meanwhile stays pending, one at most.
round:  sti
        hlt
        cli
        cmpb    $'i', mode
        je      2f
        mov     batch, %ebp
        test    %ebp, %ebp
        jz      2f
1:      call    touch
        incl    touched
        dec     %ebp
        jnz     1b
2:      testb   $1, ticks                       # every second tick: say so
        jnz     round
        call    report
        jmp     round

irq0:   push    %eax
        incl    ticks
        mov     $0x20, %al
        out     %al, $0x20
        pop     %eax
        iret

# ---- touching a page ----

touch:  mov     megabytes, %eax                 # edi: a page at random
        shl     $8, %eax
        mov     %eax, %ecx
        call    random
        mul     %ecx
        shl     $12, %edx
        lea     BASE(%edx), %edi
        mov     mode, %al
        cmp     $'m', %al
        jne     1f
        call    random                          # mixed: any of eight, weighted
        shr     $29, %eax
        mov     mix(%eax), %al
1:      cmp     $'s', %al
        je      sparse
        cmp     $'h', %al
        je      half
        cmp     $'f', %al
        je      full
        cmp     $'z', %al
        je      zero
        cmp     $'b', %al
        je      bytes
        ret
sparse: mov     $4, %ecx                        # four times 8 bytes, 8-byte aligned
1:      call    random
        mov     %eax, %edx
        shr     $23, %edx
        call    random
        mov     %eax, (%edi, %edx, 8)
        call    random
        mov     %eax, 4(%edi, %edx, 8)
        dec     %ecx
        jnz     1b
        ret
half:   call    random                          # the first or the second half
        shr     $31, %eax
        shl     $11, %eax
        add     %eax, %edi
        mov     $512, %ecx
        jmp     1f
full:   mov     $1024, %ecx
1:      call    random
        stosl
        dec     %ecx
        jnz     1b
        ret
zero:   xor     %eax, %eax
        mov     $1024, %ecx
        rep stosl
        ret
bytes:  call    random
        shr     $24, %eax
        mov     $4096, %ecx
        rep stosb
        ret

random: mov     seed, %eax                      # xorshift32; keeps all registers but eax
        push    %edx
        mov     %eax, %edx
        shl     $13, %edx
        xor     %edx, %eax
        mov     %eax, %edx
        shr     $17, %edx
        xor     %edx, %eax
        mov     %eax, %edx
        shl     $5, %edx
        xor     %edx, %eax
        pop     %edx
        mov     %eax, seed
        ret

# ---- the first content: rows of 64 bytes, "row=00000042 acct=361204 bal=5027163344 st=A|" and zeros ----

fill:   mov     $BASE, %edi
        mov     megabytes, %ebp
        shl     $14, %ebp                       # rows
        jz      9f
1:      mov     $row, %esi
        mov     $16, %ecx
        rep movsl
        call    digits
        mov     %eax, -64 + 18(%edi)
        call    digits
        mov     %ax, -64 + 22(%edi)
        call    digits
        mov     %eax, -64 + 29(%edi)
        call    digits
        mov     %eax, -64 + 33(%edi)
        call    digits
        mov     %ax, -64 + 37(%edi)
        shr     $18, %eax
        and     $3, %eax
        mov     states(%eax), %al
        mov     %al, -64 + 43(%edi)
        mov     $row + 11, %edx                 # the next row's number
2:      incb    (%edx)
        cmpb    $'9', (%edx)
        jbe     3f
        movb    $'0', (%edx)
        dec     %edx
        jmp     2b
3:      dec     %ebp
        jnz     1b
9:      ret

digits: call    random                          # four digits
        and     $0x07070707, %eax
        or      $0x30303030, %eax
        ret

# ---- serial line and command line ----

print:  lodsb                                   # the string at esi
        test    %al, %al
        jz      9f
        call    putc
        jmp     print
9:      ret

putc:   push    %edx
        push    %eax
        mov     $COM1 + 5, %dx
1:      in      %dx, %al
        test    $0x20, %al
        jz      1b
        pop     %eax
        mov     $COM1, %dx
        out     %al, %dx
        pop     %edx
        ret

report: mov     ticks, %eax                     # "T <ticks> <touched>"
        mov     $line + 11, %edi
        mov     $10, %ecx
1:      xor     %edx, %edx
        div     %ecx
        add     $'0', %dl
        mov     %dl, (%edi)
        dec     %edi
        cmp     $line + 2, %edi
        jae     1b
        mov     touched, %eax
        mov     $line + 13, %edi
        mov     $8, %ecx
2:      rol     $4, %eax
        mov     %eax, %edx
        and     $15, %edx
        mov     hex(%edx), %dl
        mov     %dl, (%edi)
        inc     %edi
        loop    2b
        mov     $line, %esi
        jmp     print

option: mov     cmdline, %esi                   # esi: what follows the key at edi; carry set if it is not there
1:      xor     %ecx, %ecx
2:      mov     (%edi, %ecx), %al
        test    %al, %al
        jz      3f
        mov     (%esi, %ecx), %dl
        test    %dl, %dl
        jz      4f
        inc     %ecx
        cmp     %al, %dl
        je      2b
        inc     %esi
        jmp     1b
3:      add     %ecx, %esi
        clc
        ret
4:      stc
        ret

number: xor     %eax, %eax                      # the decimal number at esi
1:      movzbl  (%esi), %ecx
        sub     $'0', %ecx
        cmp     $9, %ecx
        ja      9f
        imul    $10, %eax
        add     %ecx, %eax
        inc     %esi
        jmp     1b
9:      ret

# ---- data ----

        .balign 8
gdt:    .quad   0, 0x00cf9a000000ffff, 0x00cf92000000ffff
gdt_pointer:
        .word   gdt_pointer - gdt - 1
        .long   gdt
idt_pointer:
        .word   0x21 * 8 - 1
        .long   idt
mode_key: .asciz " mode="
mb_key: .asciz  " mb="
rate_key: .asciz " rate="
ready:  .asciz  "READY\n"
hex:    .ascii  "0123456789abcdef"
mix:    .ascii  "sssshfzb"
states: .ascii  "AIPX"
        .balign 4
row_0:  .ascii  "row=00000000 acct=000000 bal=0000000000 st=A|"
        .fill   64 - (. - row_0)
line_0: .asciz  "T 0000000000 00000000\n"
        .balign 4
end:

        .struct VARIABLES
row:    .skip   64                              # begins as row_0, line_0
line:   .skip   24
cmdline: .skip  4
megabytes: .skip 4
rate:   .skip   4
batch:  .skip   4
ticks:  .skip   4
touched: .skip  4
seed:   .skip   4
mode:   .skip   8
idt:    .skip   0x21 * 8

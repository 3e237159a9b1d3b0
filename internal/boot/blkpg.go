package boot

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"cloudlink.local/gateway/internal/boot/gpt"
)

// resizePartition tells the kernel a partition's new end; the partition may be in use. disk is open.
func resizePartition(disk int, p gpt.Partition, sector int) error {
	part := unix.BlkpgPartition{
		Start:  int64(p.First) * int64(sector),
		Length: int64(p.Last-p.First+1) * int64(sector),
		Pno:    int32(p.Number),
	}
	arg := unix.BlkpgIoctlArg{Op: unix.BLKPG_RESIZE_PARTITION, Datalen: int32(unsafe.Sizeof(part)), Data: (*byte)(unsafe.Pointer(&part))}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(disk), unix.BLKPG, uintptr(unsafe.Pointer(&arg)))
	if errno != 0 {
		return errno
	}
	return nil
}

// Package delta makes a new linux.efi of the one in the slot that runs and a small patch.
//
// A linux.efi is an EFI program of which the initramfs, compressed, is half; and most of that is one Go
// program. A small change to the program changes nearly every compressed byte behind it, so the patch is
// between files with the initramfs unpacked (unfolded, it is called here), and the device packs the result
// again with the very compressor that the image builder used. The patch names it.
//
// Measured on 12.7 MB of linux.efi, bytes of a delta when there changed
//
//	                                            a function  a template  650 lines  4000 lines, one dependency
//	bsdiff of the file (minio/selfupdate's)      2,112,553   4,006,225  4,598,853   4,840,798
//	blocks of 4 KiB that the old file has not    5,159,296   5,195,648  5,173,632   5,195,648
//	the same, cut by content (as casync does)    2,777,609   4,909,177  5,048,478   5,136,444
//	unpacked: xdelta3                              510,192     135,910  1,273,476   2,409,465
//	unpacked: zstd -22 --patch-from                 99,467      67,038    750,287   1,643,918
//	unpacked: bsdiff, bzip2                         26,470      26,437    255,378   1,224,026
//	unpacked: bsdiff, our zstd (this package)       52,367      53,635    398,367   1,364,691
//
// bsdiff wins because it takes what resembles, not only what equals. Our zstd is larger than bzip2, and
// xz would be smaller than both, but the device has zstd anyway and 0.11 of the full size is enough.
// minio/selfupdate's applier holds both files and the whole patch in memory.
//
// The compressor's memory decides about Apply's: tables of 34 MiB and the window. In a 256 MB machine
// (emulated Cortex-A53, 10 MiB of init's text counted) the process came to 58 MiB with a window of 8 MiB, and
// to 53 with 2, which makes an initramfs of 7.27 MB 0.17 MB larger. The next lower level needs 30 MiB less
// and makes it 0.5 MB larger. It took 100 s emulated, on a busy machine; natively, on x86-64, 5 s.
//
// Single frames for files that seldom change were not worth it: they cost what the smaller window costs,
// and the patch is as small without. Both builds are trimmed (-trimpath, no build id) anyway.
package delta

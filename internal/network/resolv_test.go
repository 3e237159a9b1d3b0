package network

import (
	"bytes"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestReadsBackItsOwnResolvConf(t *testing.T) {
	for _, dns := range [][]netip.Addr{
		nil,
		{netip.MustParseAddr("10.0.2.3")},
		{netip.MustParseAddr("9.9.9.9"), netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")},
	} {
		if got := nameservers(resolvConf(dns)); !slices.Equal(got, dns) {
			t.Errorf("got %v, want %v", got, dns)
		}
	}
}

func TestReplacesAFileWhole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	for _, content := range []string{"one", "a longer one", "", "one"} {
		if err := replaceFile(path, []byte(content)); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != content {
			t.Errorf("read %q, %v, want %q", got, err, content)
		}
	}
	if err := replaceFile(filepath.Join(path, "below", "a", "file"), nil); err == nil {
		t.Error("no error where there is no folder")
	}
}

// FuzzNameservers: a damaged file gives few, usable servers, and what is read can be written.
func FuzzNameservers(f *testing.F) {
	f.Add([]byte("# x\nnameserver 10.0.2.3\nnameserver ::1\n"))
	f.Add([]byte("nameserver 0.0.0.0\nnameserver 224.0.0.251\nnameserver\nnameserver 10.0.2.3 10.0.2.4\r\n"))
	f.Add(bytes.Repeat([]byte("nameserver 9.9.9.9\n"), 50))
	f.Fuzz(func(t *testing.T, b []byte) {
		dns := nameservers(b)
		if len(dns) > maxDNS {
			t.Errorf("%d servers", len(dns))
		}
		for _, a := range dns {
			if !a.Is4() || a.IsUnspecified() || a.IsMulticast() {
				t.Errorf("server %v", a)
			}
		}
		if again := nameservers(resolvConf(dns)); !slices.Equal(again, dns) {
			t.Errorf("read %v, wrote and read %v", dns, again)
		}
	})
}

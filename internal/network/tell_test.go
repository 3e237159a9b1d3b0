package network

import (
	"strings"
	"testing"

	"cloudlink.local/gateway/internal/diary"
	"cloudlink.local/gateway/internal/network/dhcp4"
)

func TestTheDiaryTellsWhyAServersOfferWasRejected(t *testing.T) {
	for _, reason := range []dhcp4.Reason{dhcp4.Malformed, dhcp4.BadAddress, dhcp4.OwnNetwork, dhcp4.BadMask, dhcp4.BadServer} {
		entry := diary.Entry{Kind: diary.OfferRejected, Args: map[string]string{"port": "eth0", "server": "192.0.2.1", "reason": string(reason)}}
		for _, lang := range []string{"de", "en"} {
			if text := entry.Text(lang); strings.Contains(text, string(reason)) {
				t.Errorf("%s: %q has no words for %s", lang, text, reason)
			}
		}
	}
}

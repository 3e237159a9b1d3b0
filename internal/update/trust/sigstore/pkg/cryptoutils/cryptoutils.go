// Package cryptoutils stands for the package of the same name in github.com/sigstore/sigstore, which
// go-tuf imports for keys in PEM: those of kinds that our metadata do not have. See package signature.
package cryptoutils

import (
	"crypto"
	"errors"
)

var errKind = errors.New("want an ed25519 key")

// UnmarshalPEMToPublicKey refuses.
func UnmarshalPEMToPublicKey([]byte) (crypto.PublicKey, error) { return nil, errKind }

// MarshalPublicKeyToPEM refuses.
func MarshalPublicKeyToPEM(crypto.PublicKey) ([]byte, error) { return nil, errKind }

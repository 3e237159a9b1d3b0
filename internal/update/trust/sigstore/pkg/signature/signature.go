// Package signature stands for the package of the same name in github.com/sigstore/sigstore, for
// go-tuf, which imports it: its interfaces, and ed25519 of the standard library behind them.
//
// The whole package brings protocol buffers, a registry client and keys in the cloud: 2 MB of init,
// which lies in the device's memory. Our metadata have ed25519 keys only; package trust refuses others
// before any is used. The main module's go.mod replaces sigstore with this.
package signature

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
)

// Options that sigstore has and nobody here gives.
type (
	SignOption      interface{ sign() }
	VerifyOption    interface{ verify() }
	PublicKeyOption interface{ publicKey() }
)

// A Signer signs messages.
type Signer interface {
	PublicKey(...PublicKeyOption) (crypto.PublicKey, error)
	SignMessage(message io.Reader, options ...SignOption) ([]byte, error)
}

// A Verifier checks signatures.
type Verifier interface {
	PublicKey(...PublicKeyOption) (crypto.PublicKey, error)
	VerifySignature(signature, message io.Reader, options ...VerifyOption) error
}

// An ED25519Signer signs with a private key.
type ED25519Signer struct{ key ed25519.PrivateKey }

// LoadED25519Signer returns the signer with a key.
func LoadED25519Signer(key ed25519.PrivateKey) (*ED25519Signer, error) {
	if len(key) != ed25519.PrivateKeySize {
		return nil, errors.New("want an ed25519 private key")
	}
	return &ED25519Signer{key}, nil
}

// PublicKey returns the public key.
func (s *ED25519Signer) PublicKey(...PublicKeyOption) (crypto.PublicKey, error) {
	return s.key.Public(), nil
}

// SignMessage returns the message's signature.
func (s *ED25519Signer) SignMessage(message io.Reader, _ ...SignOption) ([]byte, error) {
	b, err := io.ReadAll(message)
	if err != nil {
		return nil, fmt.Errorf("read message: %w", err)
	}
	return ed25519.Sign(s.key, b), nil
}

type ed25519Verifier struct{ key ed25519.PublicKey }

// LoadVerifier returns the verifier with a public key, which has to be an ed25519 one.
func LoadVerifier(key crypto.PublicKey, _ crypto.Hash) (Verifier, error) {
	k, ok := key.(ed25519.PublicKey)
	if !ok || len(k) != ed25519.PublicKeySize {
		return nil, errors.New("want an ed25519 public key")
	}
	return ed25519Verifier{k}, nil
}

// LoadRSAPSSVerifier refuses: nobody here has RSA keys in metadata.
func LoadRSAPSSVerifier(*rsa.PublicKey, crypto.Hash, *rsa.PSSOptions) (Verifier, error) {
	return nil, errors.New("want an ed25519 public key")
}

func (v ed25519Verifier) PublicKey(...PublicKeyOption) (crypto.PublicKey, error) { return v.key, nil }

func (v ed25519Verifier) VerifySignature(signature, message io.Reader, _ ...VerifyOption) error {
	s, err := io.ReadAll(signature)
	if err != nil {
		return fmt.Errorf("read signature: %w", err)
	}
	m, err := io.ReadAll(message)
	if err != nil {
		return fmt.Errorf("read message: %w", err)
	}
	if !ed25519.Verify(v.key, m, s) {
		return errors.New("the signature is not good")
	}
	return nil
}

package logring

import (
	"context"
	"log/slog"
	"strconv"
	"strings"

	"cloudlink.local/gateway/internal/machine"
)

// A Handler writes slog records as lines "message key=value …", without time: the ring notes it.
type Handler struct {
	emit   func(machine.Level, string) // is called by many goroutines at once
	prefix string                      // of the open groups: "a.b."
	attrs  string                      // those given to With, as text
}

// NewHandler returns a handler that hands every record of level info and graver to emit.
func NewHandler(emit func(machine.Level, string)) *Handler {
	return &Handler{emit: emit}
}

// Enabled says whether records of this level are kept.
func (h *Handler) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelInfo }

// Handle writes one record.
func (h *Handler) Handle(_ context.Context, rec slog.Record) error {
	var b strings.Builder
	b.WriteString(rec.Message)
	b.WriteString(h.attrs)
	rec.Attrs(func(a slog.Attr) bool {
		appendAttr(&b, h.prefix, a)
		return true
	})
	h.emit(levelOf(rec.Level), b.String())
	return nil
}

// WithAttrs returns a handler that adds attrs to every record.
func (h *Handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	var b strings.Builder
	b.WriteString(h.attrs)
	for _, a := range attrs {
		appendAttr(&b, h.prefix, a)
	}
	return &Handler{emit: h.emit, prefix: h.prefix, attrs: b.String()}
}

// WithGroup returns a handler that puts name before the keys that follow.
func (h *Handler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	return &Handler{emit: h.emit, prefix: h.prefix + name + ".", attrs: h.attrs}
}

func appendAttr(b *strings.Builder, prefix string, a slog.Attr) {
	v := a.Value.Resolve()
	if v.Kind() == slog.KindGroup {
		if a.Key != "" {
			prefix += a.Key + "."
		}
		for _, member := range v.Group() {
			appendAttr(b, prefix, member)
		}
		return
	}
	if a.Equal(slog.Attr{}) {
		return
	}
	text := v.String()
	if text == "" || strings.ContainsAny(text, " \"=\n\t") {
		text = strconv.Quote(text)
	}
	b.WriteString(" " + prefix + a.Key + "=" + text)
}

func levelOf(l slog.Level) machine.Level {
	switch {
	case l >= slog.LevelError:
		return machine.LevelError
	case l >= slog.LevelWarn:
		return machine.LevelWarn
	case l >= slog.LevelInfo:
		return machine.LevelInfo
	}
	return machine.LevelDebug
}

package portal

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"cloudlink.local/gateway/internal/machine"
)

type statusInput struct {
	AcceptLanguage string `header:"Accept-Language" doc:"Language of the conditions' texts: de or en" example:"de"`
}

type statusOutput struct{ Body Status }

type logInput struct {
	After uint64 `query:"after" doc:"Sequence number; only later entries are returned"`
	Level string `query:"level" enum:"error,warn,info,debug" default:"debug" doc:"Only entries that are at least this grave"`
}

type logOutput struct{ Body Log }

// Log is what the log page shows.
type Log struct {
	BootID  string          `json:"boot_id" doc:"The run that the entries are of; sequence numbers start again with the next one"`
	Entries []machine.Entry `json:"entries" doc:"Oldest first"`
}

// newAPI builds the API and its description; that costs more than the rest of the portal.
func (p *Portal) newAPI() http.Handler {
	mux := http.NewServeMux()
	c := huma.DefaultConfig("CloudLink Gateway", "1")
	c.Info.Description = "What the gateway's pages show, for programs."
	c.OpenAPIPath = "/api/openapi"
	c.DocsPath = ""     // it would load scripts from elsewhere
	c.SchemasPath = ""  // they are in the description
	c.CreateHooks = nil // no "$schema" in every answer
	api := humago.New(mux, c)
	huma.Register(api, huma.Operation{
		OperationID: "get-status", Method: http.MethodGet, Path: "/api/v1/status",
		Summary: "The gateway's state, as on the first page",
	}, func(ctx context.Context, in *statusInput) (*statusOutput, error) {
		return &statusOutput{p.status(ctx, acceptedLang(in.AcceptLanguage))}, nil
	})
	huma.Register(api, huma.Operation{
		OperationID: "get-log", Method: http.MethodGet, Path: "/api/v1/log",
		Summary: "This run's log", Errors: []int{http.StatusServiceUnavailable},
	}, func(ctx context.Context, in *logInput) (*logOutput, error) {
		ctx, cancel := context.WithTimeout(ctx, logTime)
		defer cancel()
		s := p.status(ctx, "en")
		list, err := p.machine.Log(ctx, in.After, levels[in.Level])
		if err != nil || !s.Knows(PartMachine) {
			return nil, huma.Error503ServiceUnavailable("process 1 does not answer")
		}
		if list == nil {
			list = []machine.Entry{}
		}
		return &logOutput{Log{BootID: s.BootID, Entries: list}}, nil
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		none, pattern := mux.Handler(r)
		if pattern != "" {
			mux.ServeHTTP(w, r)
			return
		}
		found := &header{w: w}
		none.ServeHTTP(found, r)
		problem(w, found.code)
	})
}

// problem answers a program with an error, as RFC 9457 has it.
func problem(w http.ResponseWriter, code int) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(code)
	json.NewEncoder(w).Encode(huma.ErrorModel{Status: code, Title: http.StatusText(code)})
}

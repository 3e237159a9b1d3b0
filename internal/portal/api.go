package portal

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"cloudlink.local/gateway/internal/condition"
	"cloudlink.local/gateway/internal/machine"
	"cloudlink.local/gateway/internal/network"
	"cloudlink.local/gateway/internal/release"
)

type statusInput struct {
	AcceptLanguage string `header:"Accept-Language" doc:"Language of the conditions' texts: de or en" example:"de"`
}

type statusOutput struct{ Body Status }

type logInput struct {
	After uint64 `query:"after" doc:"Sequence number; only later entries are returned"`
	Boot  string `query:"boot" enum:"current,previous" default:"current" doc:"Which run's: this one's, or what was saved of the one before"`
	Level string `query:"level" enum:"error,warn,info,debug" default:"debug" doc:"Only entries that are at least this grave"`
}

type logOutput struct{ Body Log }

// Log is what the log page shows.
type Log struct {
	BootID  string          `json:"boot_id,omitempty" doc:"This run, where the entries are of it; with the next one sequence numbers start again"`
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
		Summary: "The log", Errors: []int{http.StatusServiceUnavailable},
	}, func(ctx context.Context, in *logInput) (*logOutput, error) {
		ctx, cancel := context.WithTimeout(ctx, logTime)
		defer cancel()
		out := &logOutput{}
		var err error
		if in.Boot == "previous" {
			out.Body.Entries, err = p.machine.PreviousLog(ctx, levels[in.Level])
		} else {
			out.Body.BootID = p.status(ctx, "en").BootID // before its log, as on the page
			out.Body.Entries, err = p.machine.Log(ctx, in.After, levels[in.Level])
		}
		if err != nil {
			return nil, huma.Error503ServiceUnavailable("process 1 does not answer")
		}
		out.Body.Entries = slices.DeleteFunc(out.Body.Entries, func(e machine.Entry) bool { return e.Seq <= in.After })
		if out.Body.Entries == nil {
			out.Body.Entries = []machine.Entry{}
		}
		return out, nil
	})
	describe(c.Components.Schemas.Map())
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		none, pattern := mux.Handler(r)
		if pattern != "" {
			mux.ServeHTTP(w, r)
			return
		}
		found := &header{h: w.Header()}
		none.ServeHTTP(found, r)
		problem(w, found.code)
	})
}

// describe adds to the description what types do not say: that no list is null, and which values
// there are.
func describe(schemas map[string]*huma.Schema) {
	for _, s := range schemas {
		for _, property := range s.Properties {
			property.Nullable = property.Nullable && property.Items == nil
		}
	}
	enum := func(schema, property string, values ...any) { schemas[schema].Properties[property].Enum = values }
	enum("Condition", "severity", condition.Info, condition.Warning, condition.Error)
	enum("Data", "state", "", machine.DataOK, machine.DataReplaced, machine.DataReadOnly, machine.DataMissing, machine.DataFailing)
	enum("Service", "state", machine.Starting, machine.Running, machine.Waiting, machine.Stopped)
	enum("Release", "keys", "", release.Development, release.Production)
	enum("Address", "source", network.DHCP, network.Kernel, network.Manual)
	var ids []any
	for _, o := range condition.Order {
		ids = append(ids, o.ID)
	}
	enum("Condition", "id", ids...)
	schemas["Entry"].Properties["level"].Description = "As in syslog: 3 error, 4 warning, 6 information, 7 debugging"
	schemas["Status"].Properties["unknown"].Items.Enum = []any{PartMachine, PartNetwork}
}

// problem answers a program with an error, as RFC 9457 has it.
func problem(w http.ResponseWriter, code int) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(code)
	json.NewEncoder(w).Encode(huma.ErrorModel{Status: code, Title: http.StatusText(code)})
}

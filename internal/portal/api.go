package portal

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"sync"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"cloudlink.local/gateway/internal/condition"
	"cloudlink.local/gateway/internal/machine"
	"cloudlink.local/gateway/internal/release"
)

type statusInput struct {
	AcceptLanguage string `header:"Accept-Language" doc:"Language of the conditions' texts: de or en" example:"de"`
}

type statusOutput struct{ Body Status }

type logInput struct {
	After uint64 `query:"after" doc:"Sequence number; only later entries are returned"`
	Boot  string `query:"boot" enum:"current,previous" default:"current" doc:"Which run's: the current one's, or what was saved of the previous one"`
	Level string `query:"level" enum:"error,warn,info,debug" default:"debug" doc:"Only entries that are at least this grave"`
}

type logOutput struct{ Body Log }

type findInput struct {
	AcceptLanguage string `header:"Accept-Language" doc:"Language of the cures: de or en" example:"de"`
	request        *http.Request
}

// Resolve keeps the request: the name and address that it came under matter.
func (in *findInput) Resolve(c huma.Context) []error {
	in.request, _ = humago.Unwrap(c)
	return nil
}

type findOutput struct{ Body Find }

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
	c.OpenAPIPath = ""  // huma's own handlers would write the description anew while others read it
	c.DocsPath = ""     // it would load scripts from elsewhere
	c.SchemasPath = ""  // they are in the description
	c.CreateHooks = nil // no "$schema" in every answer
	c.Components.Schemas = huma.NewMapRegistry("#/components/schemas/", schemaName)
	api := humago.New(mux, c)
	huma.Register(api, huma.Operation{
		OperationID: "get-status", Method: http.MethodGet, Path: statusPath,
		Summary: "The gateway's state, as on the first page", Errors: []int{http.StatusBadRequest},
	}, func(ctx context.Context, in *statusInput) (*statusOutput, error) {
		return &statusOutput{p.status(ctx, acceptedLang(in.AcceptLanguage))}, nil
	})
	huma.Register(api, huma.Operation{
		OperationID: "get-log", Method: http.MethodGet, Path: logPath,
		Summary: "The log", Errors: []int{http.StatusBadRequest, http.StatusServiceUnavailable},
	}, func(ctx context.Context, in *logInput) (*logOutput, error) {
		ctx, cancel := context.WithTimeout(ctx, logTime)
		defer cancel()
		out := &logOutput{}
		var err error
		if in.Boot == runPrevious {
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
		for i, e := range out.Body.Entries {
			out.Body.Entries[i].Source, out.Body.Entries[i].Text = plain(e.Source), plain(e.Text) // JSON lets some control characters pass
		}
		return out, nil
	})
	huma.Register(api, huma.Operation{
		OperationID: "get-find", Method: http.MethodGet, Path: findAPIPath,
		Summary: "Under which names and addresses the gateway is found", Errors: []int{http.StatusBadRequest},
	}, func(_ context.Context, in *findInput) (*findOutput, error) {
		return &findOutput{p.find(in.request, view{Lang: acceptedLang(in.AcceptLanguage)})}, nil
	})
	p.networkAPI(api)
	p.updateAPI(api, mux)
	describe(c.Components.Schemas.Map())
	params := map[string][]param{} // of each pattern of mux
	for path, item := range api.OpenAPI().Paths {
		if item.Get == nil {
			continue // what changes something takes none
		}
		for _, in := range item.Get.Parameters {
			if in.In == "query" {
				params["GET "+path] = append(params["GET "+path], param{name: in.Name}) // huma checks the value
			}
		}
	}
	serveDescription(mux, "json", sync.OnceValues(func() ([]byte, error) { return json.Marshal(api.OpenAPI()) }))
	serveDescription(mux, "yaml", sync.OnceValues(api.OpenAPI().YAML))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		none, pattern := mux.Handler(r)
		if pattern == "" {
			problem(w, answerless(w, r, none), "")
			return
		}
		q, wrong := checkQuery(r.URL.RawQuery, params[pattern])
		if wrong != nil {
			location := "query"
			if wrong.Param != "" {
				location += "." + wrong.Param
			}
			problem(w, http.StatusBadRequest, "validation failed", &huma.ErrorDetail{Message: wrong.sentence(), Location: location})
			return
		}
		r.URL.RawQuery = q.Encode() // huma takes it apart in its own way: one way only
		if pattern != "POST "+updateUploadPath && !checkWrite(w, r) {
			return
		}
		if pattern == "GET "+updateEventsPath {
			mux.ServeHTTP(w, r) // it wants to hear that the client hung up
			return
		}
		if pattern == "GET "+logPath {
			leave := p.turn(w, r)
			if leave == nil {
				problem(w, http.StatusServiceUnavailable, "too many read the log at present; try again in a few seconds")
				return
			}
			defer leave()
		}
		mux.ServeHTTP(deaf{w}, r)
	})
}

// A deaf writer does not hear that the client hung up. Huma would panic, and any client could fill
// the log with that.
type deaf struct{ http.ResponseWriter }

// Write writes.
func (d deaf) Write(b []byte) (int, error) {
	d.ResponseWriter.Write(b)
	return len(b), nil
}

// Unwrap is for http.ResponseController.
func (d deaf) Unwrap() http.ResponseWriter { return d.ResponseWriter }

// Paths of the API.
const (
	apiPath     = "/api/"
	statusPath  = apiPath + "v1/status"
	logPath     = apiPath + "v1/log"
	findAPIPath = apiPath + "v1/find"
)

// serveDescription answers with the API's description, which get makes once.
func serveDescription(mux *http.ServeMux, format string, get func() ([]byte, error)) {
	mux.HandleFunc("GET "+apiPath+"openapi."+format, func(w http.ResponseWriter, r *http.Request) {
		b, err := get()
		if err != nil {
			panic("portal: describe the API: " + err.Error()) // from types: every test would have seen it
		}
		w.Header().Set("Content-Type", "application/openapi+"+format)
		w.Header().Set("Content-Length", strconv.Itoa(len(b)))
		w.Write(b)
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
	enum("Cure", "platform", windows, macOS, iOS, android, linux, chromeOS)
	describeNetwork(enum)
	describeUpdate(enum)
	var ids []any
	for _, o := range condition.Order {
		ids = append(ids, o.ID)
	}
	enum("Condition", "id", ids...)
	schemas["Entry"].Properties["level"].Description = "As in syslog: 3 error, 4 warning, 6 information, 7 debugging"
	schemas["Status"].Properties["unknown"].Items.Enum = []any{PartMachine, PartNetwork, PartUpdate}
}

// problem answers a program with an error, as RFC 9457 has it.
func problem(w http.ResponseWriter, code int, detail string, errs ...*huma.ErrorDetail) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(code)
	json.NewEncoder(w).Encode(huma.ErrorModel{Status: code, Title: http.StatusText(code), Detail: detail, Errors: errs})
}

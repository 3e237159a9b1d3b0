package portal

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"path"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"cloudlink.local/gateway/internal/diary"
	"cloudlink.local/gateway/internal/mdns"
	"cloudlink.local/gateway/internal/network"
	"cloudlink.local/gateway/internal/network/ntp"
	"cloudlink.local/gateway/internal/portmap"
	"cloudlink.local/gateway/internal/settings"
)

// Paths of the network's API.
const (
	networkPath  = apiPath + "v1/network"
	confirmPath  = networkPath + "/confirm"
	returnPath   = networkPath + "/return"
	diaryPath    = networkPath + "/diary"
	portsPath    = networkPath + "/ports"
	selfTestPath = networkPath + "/selftest"
	clockPath    = apiPath + "v1/clock"
	namesPath    = apiPath + "v1/names"
)

// NetworkState is the settings of the Ethernet ports and what became of them.
type NetworkState struct {
	Settings settings.Network `json:"settings" doc:"In effect, with what is on probation"`
	Ports    []network.Port   `json:"ports" doc:"In the kernel's order"`
	Clock    network.Clock    `json:"clock"`
	Change   *network.Change  `json:"change,omitempty" doc:"On probation: confirm it over one of the new addresses"`
}

// ClockState is the settings of the clock and what is known about it.
type ClockState struct {
	Servers []string      `json:"servers" doc:"NTP servers, asked after those that DHCP names"`
	Clock   network.Clock `json:"clock"`
}

// A Diary is what happened on the network.
type Diary struct {
	Entries []DiaryEntry `json:"entries" doc:"Oldest first"`
}

// A DiaryEntry is an entry with its text in the reader's language.
type DiaryEntry struct {
	diary.Entry
	Text string `json:"text"`
}

// A PortTable is the table of ports (M10).
type PortTable struct {
	Rows []portmap.Row `json:"rows"`
}

// A SelfTest is the table of ports with what was found out about each row.
type SelfTest struct {
	Results []portmap.Result `json:"results"`
}

// A Problem is why nothing was changed, as RFC 9457 has it.
type Problem struct {
	huma.ErrorModel
	Fields []Field `json:"fields,omitempty" doc:"What is wrong with the settings"`
}

// A Field is what is wrong with one of them, with its text in the reader's language.
type Field struct {
	settings.FieldError
	settings.Text
}

// An Asker is part of each input that changes something; huma finds its fields as it is exported.
type Asker struct {
	network.Request `json:"-"`
	AcceptLanguage  string `header:"Accept-Language" doc:"Language of the texts: de or en" example:"de"`
}

// Resolve takes down who asks.
func (a *Asker) Resolve(c huma.Context) []error {
	a.Request = requestOf(c.Context(), c.RemoteAddr())
	return nil
}

type (
	emptyInput struct{ Asker }
	rawInput   struct {
		Asker
		RawBody []byte `contentType:"application/json"`
	}
	langInput struct {
		AcceptLanguage string `header:"Accept-Language" doc:"Language of the texts: de or en" example:"de"`
	}
	diaryInput struct {
		AcceptLanguage string `header:"Accept-Language" doc:"Language of the texts: de or en" example:"de"`
		After          uint64 `query:"after" doc:"ID of an entry; only later ones are returned"`
	}
	networkOutput  struct{ Body NetworkState }
	clockOutput    struct{ Body ClockState }
	namesOutput    struct{ Body NamesState }
	diaryOutput    struct{ Body Diary }
	tableOutput    struct{ Body PortTable }
	selfTestOutput struct{ Body SelfTest }
)

// Resolve refuses a body where there is nothing to say.
func (in *emptyInput) Resolve(c huma.Context) []error {
	b, err := io.ReadAll(c.BodyReader())
	if b = bytes.TrimSpace(b); err != nil || len(b) > 0 && string(b) != "{}" {
		return []error{&huma.ErrorDetail{Location: "body", Message: "this takes no values; send {} or nothing"}}
	}
	return in.Asker.Resolve(c)
}

// silent answers that the network service does not.
func silent(lang string) error {
	return huma.Error503ServiceUnavailable(view{Lang: lang}.Word("", "api.silent"))
}

// failed answers with why the network service did not do something.
func failed(err error, lang string) error {
	refusal := refusalOf(err)
	if refusal == nil {
		return silent(lang)
	}
	const code = http.StatusUnprocessableEntity
	problem := &Problem{ErrorModel: huma.ErrorModel{Status: code, Title: http.StatusText(code), Detail: plain(refusal.Reason)}}
	var sentences []string
	for _, f := range refusal.Fields {
		text := f.Text(lang)
		problem.Fields = append(problem.Fields, Field{f, text})
		sentences = append(sentences, plain(f.Path+": "+text.Message+" "+text.Cure))
	}
	if len(sentences) > 0 {
		problem.Detail = strings.Join(sentences, " ")
	}
	return problem
}

// notDoneAPI answers that the change on probation was neither kept nor taken back. idle is the text for
// where there is none.
func (p *Portal) notDoneAPI(ctx context.Context, err error, idle, lang string) error {
	s, silence := p.networkStatus(ctx)
	if refusalOf(err) == nil || silence != nil {
		return silent(lang)
	}
	text := idle
	if s.Change != nil {
		text = "api.address"
	}
	return huma.Error409Conflict(view{Lang: lang}.Word("", text))
}

// wrong is an error of package settings as a refusal.
func wrong(err error) *network.Refusal {
	r := &network.Refusal{Reason: err.Error()}
	if list, ok := errors.AsType[settings.Errors](err); ok {
		for _, f := range list {
			r.Fields = append(r.Fields, *f)
		}
	}
	return r
}

// decodeClock reads the clock's settings as strictly as the rest of them.
func decodeClock(b []byte) (settings.Clock, error) {
	if !json.Valid(b) { // alone: what stands around it below must not make it so
		_, err := settings.Decode(b)
		if list, ok := errors.AsType[settings.Errors](err); ok {
			for _, f := range list {
				f.Path = "clock"
			}
		}
		return settings.Clock{}, err
	}
	all, err := settings.Decode(append(append([]byte(`{"version":`+strconv.Itoa(settings.Version)+`,"clock":`), b...), '}'))
	return all.Clock, err
}

// networkAPI adds the part of the API that shows and changes the network.
func (p *Portal) networkAPI(api huma.API) {
	registry := api.OpenAPI().Components.Schemas
	problems := func(codes ...int) map[string]*huma.Response {
		all := map[string]*huma.Response{}
		for _, code := range append(codes, http.StatusBadRequest, http.StatusForbidden, http.StatusUnsupportedMediaType, http.StatusServiceUnavailable) {
			all[strconv.Itoa(code)] = &huma.Response{Description: http.StatusText(code), Content: map[string]*huma.MediaType{
				"application/problem+json": {Schema: registry.Schema(reflect.TypeFor[Problem](), true, "")},
			}}
		}
		return all
	}
	reads := []int{http.StatusBadRequest, http.StatusServiceUnavailable}

	huma.Register(api, huma.Operation{
		OperationID: "get-network", Method: http.MethodGet, Path: networkPath,
		Summary: "The Ethernet ports: settings and state", Errors: reads,
	}, func(ctx context.Context, in *langInput) (*networkOutput, error) {
		s, err := p.networkStatus(ctx)
		if err != nil {
			return nil, silent(acceptedLang(in.AcceptLanguage))
		}
		return p.networkState(ctx, s, acceptedLang(in.AcceptLanguage))
	})
	huma.Register(api, huma.Operation{
		OperationID: "put-network", Method: http.MethodPut, Path: networkPath,
		Summary:     "Change the settings of the Ethernet ports",
		Description: "What is left out has its default. A change that can cut the owner off is on probation: see change in the answer.",
		Responses:   problems(http.StatusUnprocessableEntity), SkipValidateBody: true,
	}, func(ctx context.Context, in *rawInput) (*networkOutput, error) {
		lang := acceptedLang(in.AcceptLanguage)
		n, err := settings.DecodeNetwork(in.RawBody)
		if err != nil {
			return nil, failed(wrong(err), lang)
		}
		s, err := p.change(ctx, func(ctx context.Context) (network.Status, error) {
			return p.network.Change(ctx, network.Proposal{Request: in.Request, Network: &n})
		})
		if err != nil {
			return nil, failed(err, lang)
		}
		return p.networkState(ctx, s, acceptedLang(in.AcceptLanguage))
	})
	huma.Register(api, huma.Operation{
		OperationID: "confirm-network", Method: http.MethodPost, Path: confirmPath,
		Summary: "Keep the change on probation; counts over one of its addresses only", Responses: problems(http.StatusConflict, http.StatusUnprocessableEntity),
	}, func(ctx context.Context, in *emptyInput) (*networkOutput, error) {
		lang := acceptedLang(in.AcceptLanguage)
		s, err := p.change(ctx, func(ctx context.Context) (network.Status, error) { return p.network.Confirm(ctx, in.Request) })
		if err != nil {
			return nil, p.notDoneAPI(ctx, err, "api.confirm", lang)
		}
		return p.networkState(ctx, s, acceptedLang(in.AcceptLanguage))
	})
	huma.Register(api, huma.Operation{
		OperationID: "return-network", Method: http.MethodPost, Path: returnPath,
		Summary: "Take the change on probation back now", Responses: problems(http.StatusConflict, http.StatusUnprocessableEntity),
	}, func(ctx context.Context, in *emptyInput) (*networkOutput, error) {
		lang := acceptedLang(in.AcceptLanguage)
		s, err := p.change(ctx, func(ctx context.Context) (network.Status, error) { return p.network.Return(ctx, in.Request) })
		if err != nil {
			return nil, p.notDoneAPI(ctx, err, "api.return", lang)
		}
		return p.networkState(ctx, s, acceptedLang(in.AcceptLanguage))
	})
	huma.Register(api, huma.Operation{
		OperationID: "get-clock", Method: http.MethodGet, Path: clockPath,
		Summary: "The clock: time servers and state", Errors: reads,
	}, func(ctx context.Context, in *langInput) (*clockOutput, error) {
		s, err := p.networkStatus(ctx)
		if err != nil {
			return nil, silent(acceptedLang(in.AcceptLanguage))
		}
		return p.clockState(ctx, s, acceptedLang(in.AcceptLanguage))
	})
	huma.Register(api, huma.Operation{
		OperationID: "put-clock", Method: http.MethodPut, Path: clockPath,
		Summary: "Change the time servers", Responses: problems(http.StatusUnprocessableEntity), SkipValidateBody: true,
	}, func(ctx context.Context, in *rawInput) (*clockOutput, error) {
		lang := acceptedLang(in.AcceptLanguage)
		c, err := decodeClock(in.RawBody)
		if err != nil {
			return nil, failed(wrong(err), lang)
		}
		s, err := p.change(ctx, func(ctx context.Context) (network.Status, error) {
			return p.network.Change(ctx, network.Proposal{Request: in.Request, Clock: &c})
		})
		if err != nil {
			return nil, failed(err, lang)
		}
		return p.clockState(ctx, s, acceptedLang(in.AcceptLanguage))
	})
	huma.Register(api, huma.Operation{
		OperationID: "get-names", Method: http.MethodGet, Path: namesPath,
		Summary: "The gateway's names in the LAN: settings and state", Errors: reads,
	}, func(ctx context.Context, in *langInput) (*namesOutput, error) {
		s, err := p.networkStatus(ctx)
		if err != nil {
			return nil, silent(acceptedLang(in.AcceptLanguage))
		}
		return p.namesState(ctx, s, acceptedLang(in.AcceptLanguage))
	})
	huma.Register(api, huma.Operation{
		OperationID: "put-names", Method: http.MethodPut, Path: namesPath,
		Summary: "Change the name", Description: "What is left out has its default.",
		Responses: problems(http.StatusUnprocessableEntity), SkipValidateBody: true,
	}, func(ctx context.Context, in *rawInput) (*namesOutput, error) {
		lang := acceptedLang(in.AcceptLanguage)
		n, err := settings.DecodeNames(in.RawBody)
		if err != nil {
			return nil, failed(wrong(err), lang)
		}
		s, err := p.change(ctx, func(ctx context.Context) (network.Status, error) {
			return p.network.Change(ctx, network.Proposal{Request: in.Request, Names: &n})
		})
		if err != nil {
			return nil, failed(err, lang)
		}
		return p.namesState(ctx, s, acceptedLang(in.AcceptLanguage))
	})
	huma.Register(api, huma.Operation{
		OperationID: "get-network-diary", Method: http.MethodGet, Path: diaryPath,
		Summary: "What happened on the ports, to the clock and to the settings", Errors: reads,
	}, func(ctx context.Context, in *diaryInput) (*diaryOutput, error) {
		list, err := p.diary(ctx)
		if err != nil {
			return nil, silent(acceptedLang(in.AcceptLanguage))
		}
		out := &diaryOutput{Diary{Entries: []DiaryEntry{}}}
		for _, e := range list {
			if e.ID > in.After {
				out.Body.Entries = append(out.Body.Entries, DiaryEntry{e, plain(e.Text(acceptedLang(in.AcceptLanguage)))})
			}
		}
		return out, nil
	})
	huma.Register(api, huma.Operation{
		OperationID: "get-network-ports", Method: http.MethodGet, Path: portsPath,
		Summary: "The table of ports: what has to be open on the way", Errors: reads,
	}, func(ctx context.Context, in *langInput) (*tableOutput, error) {
		rows, err := p.table(ctx)
		if err != nil {
			return nil, silent(acceptedLang(in.AcceptLanguage))
		}
		return &tableOutput{PortTable{append([]portmap.Row{}, rows...)}}, nil
	})
	huma.Register(api, huma.Operation{
		OperationID: "test-network-ports", Method: http.MethodPost, Path: selfTestPath,
		Summary: "Check the table of ports, which takes up to half a minute", Responses: problems(http.StatusUnprocessableEntity),
		Middlewares: huma.Middlewares{func(c huma.Context, next func(huma.Context)) {
			_, w := humago.Unwrap(c)
			unhurried(w)
			next(c)
		}},
	}, func(ctx context.Context, in *emptyInput) (*selfTestOutput, error) {
		results, err := p.selfTest(ctx, in.Request)
		if err != nil {
			return nil, silent(acceptedLang(in.AcceptLanguage))
		}
		return &selfTestOutput{SelfTest{results}}, nil
	})
	// Bodies are read by package settings; huma is only to say what is in them.
	for path, v := range map[string]reflect.Type{
		networkPath: reflect.TypeFor[settings.Network](), clockPath: reflect.TypeFor[settings.Clock](), namesPath: reflect.TypeFor[settings.Names](),
	} {
		body := api.OpenAPI().Paths[path].Put.RequestBody
		body.Required = true
		body.Content["application/json"].Schema = registry.Schema(v, true, "")
	}
}

// networkState adds the settings to s.
func (p *Portal) networkState(ctx context.Context, s network.Status, lang string) (*networkOutput, error) {
	all, err := p.settings(ctx)
	if err != nil {
		return nil, silent(lang)
	}
	return &networkOutput{NetworkState{Settings: all.Network, Ports: s.Ports, Clock: s.Clock, Change: s.Change}}, nil
}

// clockState is as networkState.
func (p *Portal) clockState(ctx context.Context, s network.Status, lang string) (*clockOutput, error) {
	all, err := p.settings(ctx)
	if err != nil {
		return nil, silent(lang)
	}
	return &clockOutput{ClockState{Servers: all.Clone().Clock.Servers, Clock: s.Clock}}, nil
}

// checkWrite refuses what a form of another site could send without a browser asking us first, and
// what is too long; it reads the body.
func checkWrite(w http.ResponseWriter, r *http.Request) bool {
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		return true
	}
	// A POST of this API says nothing; Portal.origin has refused it from other sites.
	bare := r.Method == http.MethodPost && r.ContentLength == 0 && r.Header.Get("Content-Type") == ""
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); !bare && (err != nil || kind != "application/json") {
		problem(w, http.StatusUnsupportedMediaType, "send JSON, with the header Content-Type: application/json")
		return false
	}
	b, err := io.ReadAll(r.Body)
	if _, long := errors.AsType[*http.MaxBytesError](err); long {
		problem(w, http.StatusRequestEntityTooLarge, "the body is too long")
		return false
	}
	if err != nil {
		problem(w, http.StatusBadRequest, "the body cannot be read")
		return false
	}
	r.Body = io.NopCloser(bytes.NewReader(b))
	r.ContentLength = int64(len(b))
	return true
}

// unhurried gives a self-test's answer the time that it needs.
func unhurried(w http.ResponseWriter) {
	http.NewResponseController(w).SetWriteDeadline(time.Now().Add(testTime + writeTime)) // there is none in tests
}

// schemaName tells types of one name in several packages apart.
func schemaName(t reflect.Type, hint string) string {
	name := huma.DefaultSchemaNamer(t, hint)
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch of := path.Base(t.PkgPath()); of {
	case "settings", "portmap", "diary", "update":
		return strings.ToUpper(of[:1]) + of[1:] + name
	}
	return name
}

// describeNetwork is describe for the network's part.
func describeNetwork(enum func(schema, property string, values ...any)) {
	enum("Address", "source", network.DHCP, network.DHCP6, network.Static, network.LinkLocal, network.Kernel, network.Manual)
	enum("Port", "role", "", network.WAN, network.LAN, network.Both)
	enum("Clock", "source", "", ntp.Unset, ntp.Floor, ntp.NTP, ntp.Verified)
	enum("Clock", "reason", "", ntp.CannotSet, ntp.TooFar, ntp.Disagree, ntp.Impossible, ntp.Unsynchronised, ntp.Refused, ntp.NoAnswer, ntp.Unresolved, ntp.NoServers)
	enum("SettingsIPv4", "method", settings.DHCP, settings.Static, settings.Off)
	enum("SettingsIPv6", "method", settings.Automatic, settings.Static, settings.Off)
	enum("Name", "state", mdns.Probing, mdns.Announced, mdns.Lost)
	enum("PortmapRow", "direction", portmap.Out, portmap.In, portmap.Inside)
	enum("PortmapRow", "protocol", portmap.TCP, portmap.UDP, portmap.ICMP)
	enum("PortmapResult", "state", portmap.Open, portmap.Blocked, portmap.Unknown)
	var kinds []any
	for _, o := range diary.Order {
		kinds = append(kinds, o.Kind)
	}
	enum("DiaryEntry", "kind", kinds...)
}

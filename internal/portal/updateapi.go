package portal

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"cloudlink.local/gateway/internal/network"
	"cloudlink.local/gateway/internal/settings"
	"cloudlink.local/gateway/internal/update"
	"cloudlink.local/gateway/internal/update/trust"
)

// Paths of the update's API.
const (
	updatePath         = apiPath + "v1/update"
	updateEventsPath   = updatePath + "/events"
	updateCheckPath    = updatePath + "/check"
	updateInstallPath  = updatePath + "/install"
	updateRollbackPath = updatePath + "/rollback"
	updateDrillPath    = updatePath + "/drill"
	updateUSBPath      = updatePath + "/usb"
	updateCancelPath   = updatePath + "/cancel"
	updateUploadPath   = updatePath + "/upload"
	updateSettingsPath = updatePath + "/settings"
	attemptsPath       = updatePath + "/attempts/"
)

// Why the update service did not do what was asked for, for programs.
const (
	busy          = "busy"           // an update is on its way already
	notUnderWay   = "not-under-way"  // there is nothing to be cancelled, or not any more
	bundleRefused = "bundle-refused" // Reason says why
	updateSilent  = "silent"         // the update service does not answer
)

// An UpdateProblem is why an update was not begun, as RFC 9457 has it.
type UpdateProblem struct {
	huma.ErrorModel
	Code   string        `json:"error" doc:"Why, in a word"`
	Reason update.Reason `json:"reason,omitempty" doc:"What is wrong with the bundle"`
	Cure   string        `json:"cure,omitempty" doc:"What to do, in the reader's language"`
}

type (
	updateOutput         struct{ Body update.Status }
	updateAcceptedOutput struct {
		Status int
		Body   update.Status
	}
	updateSettingsOutput struct{ Body settings.Update }
	attemptInput         struct {
		AcceptLanguage string `header:"Accept-Language" doc:"Language of the text: de or en" example:"de"`
		ID             string `path:"id" doc:"The attempt's id; with .json after it, the receipt for programs" example:"12"`
		Lang           string `query:"lang" enum:"de,en" doc:"Language of the text, before Accept-Language"`
	}
	attemptOutput struct {
		ContentType        string `header:"Content-Type"`
		ContentDisposition string `header:"Content-Disposition"`
		Body               []byte
	}
)

// byOf says who asks for an update, for its receipt: the address, until people sign in.
func byOf(r network.Request) string {
	if !r.From.IsValid() {
		return byPortal
	}
	return r.From.WithZone("").String()
}

// order asks the update service for something, and sees to it that the next page shows what became of it.
func (p *Portal) order(ctx context.Context, r network.Request, f func(context.Context, update.Request) (update.Status, error)) (update.Status, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), changeTime) // begun is begun, whoever leaves
	defer cancel()
	defer p.forget()
	s, err := f(ctx, update.Request{By: byOf(r)})
	return wholeUpdate(s), err
}

// updateFailed is why the update service did not do something; idle is the word for when it refuses.
func updateFailed(err error, idle, lang string) *UpdateProblem {
	v := view{Lang: lang}
	answer := func(status int, code string) *UpdateProblem {
		return &UpdateProblem{Code: code, Cure: v.Word("", "updateapi."+code+".cure"), ErrorModel: huma.ErrorModel{
			Status: status, Title: http.StatusText(status), Detail: v.Word("", "updateapi."+code)}}
	}
	refusal, ok := errors.AsType[*update.Refusal](err)
	switch {
	case !ok:
		return answer(http.StatusServiceUnavailable, updateSilent)
	case refusal.Check == nil:
		return answer(http.StatusConflict, idle)
	}
	problem := answer(http.StatusUnprocessableEntity, bundleRefused)
	problem.Reason = refusal.Check.Reason
	problem.Detail, problem.Cure = v.Reason(problem.Reason), v.ReasonCure(problem.Reason)
	if refusal.Check.Detail != "" {
		problem.Detail += " (" + plain(refusal.Check.Detail) + ")"
	}
	return problem
}

// updateAPI adds the part of the API that shows and makes updates.
func (p *Portal) updateAPI(api huma.API, mux *http.ServeMux) {
	registry := api.OpenAPI().Components.Schemas
	reads := []int{http.StatusBadRequest, http.StatusServiceUnavailable}
	problems := func(of reflect.Type, codes ...int) map[string]*huma.Response {
		all := map[string]*huma.Response{}
		for _, code := range append(codes, http.StatusBadRequest, http.StatusForbidden, http.StatusUnsupportedMediaType, http.StatusServiceUnavailable) {
			all[strconv.Itoa(code)] = &huma.Response{Description: http.StatusText(code), Content: map[string]*huma.MediaType{
				"application/problem+json": {Schema: registry.Schema(of, true, "")},
			}}
		}
		return all
	}
	updateProblem, fieldProblem := reflect.TypeFor[UpdateProblem](), reflect.TypeFor[Problem]()

	huma.Register(api, huma.Operation{
		OperationID: "get-update", Method: http.MethodGet, Path: updatePath,
		Summary: "How updates stand", Errors: reads,
	}, func(ctx context.Context, in *langInput) (*updateOutput, error) {
		s, err := p.updateStatus(ctx)
		if err != nil {
			return nil, huma.Error503ServiceUnavailable(view{Lang: acceptedLang(in.AcceptLanguage)}.Word("", "updateapi.silent"))
		}
		return &updateOutput{s}, nil
	})
	for _, o := range []struct {
		id, path, summary, idle string
		do                      func(context.Context, update.Request) (update.Status, error)
	}{
		{"check-update", updateCheckPath, "Ask the update server now", busy, p.update.CheckNow},
		{"install-update", updateInstallPath, "Install what the update server has", busy, p.update.Install},
		{"roll-back-update", updateRollbackPath, "Start the version in the other slot, for good", busy, p.update.Rollback},
		{"drill-update", updateDrillPath, "Fire drill: start the version in the other slot, see that it works, and come back", busy, p.update.Drill},
		{"update-from-usb", updateUSBPath, "Install the bundle that is on a USB stick", busy, p.update.USB},
		{"cancel-update", updateCancelPath, "End the update that is on its way, while it can still be ended", notUnderWay, p.update.Cancel},
	} {
		huma.Register(api, huma.Operation{
			OperationID: o.id, Method: http.MethodPost, Path: o.path, Summary: o.summary, DefaultStatus: http.StatusAccepted,
			Responses: problems(updateProblem, http.StatusConflict, http.StatusUnprocessableEntity),
		}, func(ctx context.Context, in *emptyInput) (*updateAcceptedOutput, error) {
			s, err := p.order(ctx, in.Request, o.do)
			if err != nil {
				return nil, updateFailed(err, o.idle, acceptedLang(in.AcceptLanguage))
			}
			return &updateAcceptedOutput{http.StatusAccepted, s}, nil
		})
	}
	huma.Register(api, huma.Operation{
		OperationID: "get-update-settings", Method: http.MethodGet, Path: updateSettingsPath,
		Summary: "From where, when and which updates are installed", Errors: reads,
	}, func(ctx context.Context, in *langInput) (*updateSettingsOutput, error) {
		all, err := p.settings(ctx)
		if err != nil {
			return nil, silent(acceptedLang(in.AcceptLanguage))
		}
		return &updateSettingsOutput{all.Update}, nil
	})
	huma.Register(api, huma.Operation{
		OperationID: "put-update-settings", Method: http.MethodPut, Path: updateSettingsPath,
		Summary: "Change from where, when and which updates are installed", Description: "What is left out has its default.",
		Responses: problems(fieldProblem, http.StatusUnprocessableEntity), SkipValidateBody: true,
	}, func(ctx context.Context, in *rawInput) (*updateSettingsOutput, error) {
		lang := acceptedLang(in.AcceptLanguage)
		u, err := settings.DecodeUpdate(in.RawBody)
		if err != nil {
			return nil, failed(wrong(err), lang)
		}
		if _, err := p.change(ctx, func(ctx context.Context) (network.Status, error) {
			return p.network.Change(ctx, network.Proposal{Request: in.Request, Update: &u})
		}); err != nil {
			return nil, failed(err, lang)
		}
		return &updateSettingsOutput{u}, nil
	})
	huma.Register(api, huma.Operation{
		OperationID: "get-update-attempt", Method: http.MethodGet, Path: attemptsPath + "{id}",
		Summary: "The receipt of one attempt, as a text or, with .json, for programs", Errors: append([]int{http.StatusNotFound}, reads...),
	}, func(ctx context.Context, in *attemptInput) (*attemptOutput, error) {
		lang := in.Lang
		if lang == "" {
			lang = acceptedLang(in.AcceptLanguage)
		}
		s, err := p.updateStatus(ctx)
		if err != nil {
			return nil, huma.Error503ServiceUnavailable(view{Lang: lang}.Word("", "updateapi.silent"))
		}
		number, forPrograms := strings.CutSuffix(in.ID, ".json")
		id, err := strconv.Atoi(number)
		i := slices.IndexFunc(s.Attempts, func(a update.Attempt) bool { return err == nil && a.ID == id })
		if i < 0 {
			return nil, huma.Error404NotFound(view{Lang: lang}.Word("", "updateapi.no-attempt"))
		}
		return p.receiptFile(s.Attempts[i], forPrograms, lang)
	})
	attempts := api.OpenAPI().Paths[attemptsPath+"{id}"].Get.Responses["200"]
	attempts.Content = map[string]*huma.MediaType{
		"text/plain": {Schema: &huma.Schema{Type: huma.TypeString}}, "application/json": {Schema: registry.Schema(reflect.TypeFor[update.Attempt](), true, "")},
	}
	body := api.OpenAPI().Paths[updateSettingsPath].Put.RequestBody
	body.Required = true
	body.Content["application/json"].Schema = registry.Schema(reflect.TypeFor[settings.Update](), true, "")

	p.describeUpload(api, problems(updateProblem, http.StatusConflict, http.StatusRequestEntityTooLarge, http.StatusUnprocessableEntity))
	mux.HandleFunc("POST "+updateUploadPath, p.uploadAPI)
	p.describeEvents(api)
	mux.HandleFunc("GET "+updateEventsPath, p.updateEvents)
}

// receiptFile is an attempt's receipt as a download.
func (p *Portal) receiptFile(a update.Attempt, forPrograms bool, lang string) (*attemptOutput, error) {
	name := fmt.Sprintf("cloudlink-update-%d", a.ID)
	if forPrograms {
		b, err := json.MarshalIndent(a, "", "  ")
		return &attemptOutput{"application/json", `attachment; filename="` + name + `.json"`, b}, err
	}
	var text bytes.Buffer
	err := receipt(&text, view{Lang: lang}, a)
	return &attemptOutput{"text/plain; charset=utf-8", `attachment; filename="` + name + `.txt"`, text.Bytes()}, err
}

// describeUpload says what uploadAPI does; huma would hold all of a bundle in memory.
func (p *Portal) describeUpload(api huma.API, responses map[string]*huma.Response) {
	responses["202"] = &huma.Response{Description: http.StatusText(http.StatusAccepted), Content: map[string]*huma.MediaType{
		"application/json": {Schema: api.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[update.Status](), true, "")},
	}}
	api.OpenAPI().AddOperation(&huma.Operation{
		OperationID: "upload-update", Method: http.MethodPost, Path: updateUploadPath,
		Summary: "Install a bundle", Responses: responses,
		RequestBody: &huma.RequestBody{Required: true, Description: "The bundle", Content: map[string]*huma.MediaType{
			"application/octet-stream": {Schema: &huma.Schema{Type: huma.TypeString, Format: "binary"}},
		}},
	})
}

// uploadAPI takes a bundle from a program.
func (p *Portal) uploadAPI(w http.ResponseWriter, r *http.Request) {
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/octet-stream" {
		problem(w, http.StatusUnsupportedMediaType, "send the bundle as it is, with the header Content-Type: application/octet-stream")
		return
	}
	lang := acceptedLang(r.Header.Get("Accept-Language"))
	s, err := p.upload(w, r, r.Body)
	if _, long := errors.AsType[*http.MaxBytesError](err); long {
		problem(w, http.StatusRequestEntityTooLarge, view{Lang: lang}.Reason(update.Reason(trust.TooLarge)))
		return
	}
	if err != nil {
		answer := updateFailed(err, busy, lang)
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(answer.Status)
		json.NewEncoder(w).Encode(answer)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusAccepted)
	json.NewEncoder(w).Encode(s)
}

const (
	maxUpload  = 300<<20 + 1<<20  // bytes of a bundle with a form around it; the update service takes none that is larger
	uploadTime = 30 * time.Minute // for all of it
	uploadStop = 20 * time.Second // without a byte
	uploadRest = 2 * time.Minute  // for what nobody wants any more
)

// upload hands a bundle on to the update service, as it comes in.
func (p *Portal) upload(w http.ResponseWriter, r *http.Request, body io.Reader) (update.Status, error) {
	steady := &steady{body: body, conn: http.NewResponseController(w), end: time.Now().Add(uploadTime)}
	if s, err := p.updateStatus(r.Context()); err == nil && (s.State.Working() || s.Checking || s.Busy) {
		steady.drain()
		return s, &update.Refusal{Text: busy}
	}
	ctx, cancel := context.WithTimeout(r.Context(), uploadTime)
	defer cancel()
	defer p.forget()
	s, err := p.update.Upload(ctx, update.Request{By: byOf(requestOf(r.Context(), r.RemoteAddr))}, steady)
	if err != nil {
		steady.drain()
	}
	if _, long := errors.AsType[*http.MaxBytesError](steady.err); long {
		err = steady.err // whatever became of the rest
	}
	steady.extend() // for the answer
	return wholeUpdate(s), err
}

// A steady reader gives a request time for as long as bytes of it come in, but not beyond end.
type steady struct {
	body io.Reader
	conn *http.ResponseController

	mu      sync.Mutex // guards what follows, and reading
	end     time.Time
	err     error // how it ended
	drained bool
}

// Read reads.
func (s *steady) Read(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.drained { // whoever reads beside his answer
		return 0, io.EOF
	}
	return s.read(b)
}

func (s *steady) read(b []byte) (int, error) {
	s.extend()
	n, err := s.body.Read(b)
	if err != nil {
		s.err = err
	}
	return n, err
}

// drain takes what is left, for nothing. A browser reads no answer before it has sent all, and what it
// sends to a connection that is closed has its system throw the answer away.
func (s *steady) drain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drained = true
	s.end = time.Now().Add(uploadRest)
	for b := make([]byte, 32<<10); s.err == nil; {
		s.read(b)
	}
}

func (s *steady) extend() {
	deadline := time.Now().Add(uploadStop)
	if deadline.After(s.end) {
		deadline = s.end
	}
	s.conn.SetReadDeadline(deadline) // there is none in tests
	s.conn.SetWriteDeadline(deadline.Add(writeTime))
}

// isUpload says whether a request's body is a bundle.
func isUpload(r *http.Request) bool {
	return r.Method == http.MethodPost && (r.URL.Path == updateUploadPath || r.URL.Path == softwarePath+"/upload")
}

// maxStreams is how many may follow the events at a time: each holds a connection.
const maxStreams = 32

const (
	eventPause = 500 * time.Millisecond // between looks
	eventStill = 15 * time.Second       // without an event, until a comment says that we are here
)

// describeEvents says what updateEvents does.
func (p *Portal) describeEvents(api huma.API) {
	api.OpenAPI().AddOperation(&huma.Operation{
		OperationID: "follow-update", Method: http.MethodGet, Path: updateEventsPath,
		Summary:     "How updates stand, at once and whenever that changes, as server-sent events",
		Description: "The data of each event \"update\" is what GET " + updatePath + " answers.",
		Responses: map[string]*huma.Response{
			"200": {Description: http.StatusText(http.StatusOK), Content: map[string]*huma.MediaType{"text/event-stream": {Schema: &huma.Schema{Type: huma.TypeString}}}},
			"503": {Description: "Too many follow already", Content: map[string]*huma.MediaType{
				"application/problem+json": {Schema: api.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[huma.ErrorModel](), true, "")}}},
		},
	})
}

// updateEvents follows the update until the client leaves or the portal ends. While the update service
// does not answer it says nothing.
func (p *Portal) updateEvents(w http.ResponseWriter, r *http.Request) {
	select {
	case p.streams <- struct{}{}:
		defer func() { <-p.streams }()
	default:
		problem(w, http.StatusServiceUnavailable, "too many follow the events at present; try again later")
		return
	}
	conn := http.NewResponseController(w)
	send := func(text []byte) error {
		conn.SetWriteDeadline(time.Now().Add(writeTime)) // there is none in tests
		if _, err := w.Write(text); err != nil {
			return err
		}
		return conn.Flush()
	}
	w.Header().Set("Content-Type", "text/event-stream")
	if send([]byte("retry: 1000\n\n")) != nil {
		return
	}
	tick := time.NewTicker(eventPause)
	defer tick.Stop()
	var last []byte
	said := time.Now()
	for {
		if s, err := p.updateStatus(r.Context()); err == nil {
			if b, err := json.Marshal(s); err == nil && !bytes.Equal(b, last) {
				if send(slices.Concat([]byte("event: update\ndata: "), b, []byte("\n\n"))) != nil {
					return
				}
				last, said = b, time.Now()
			}
		}
		if time.Since(said) >= eventStill {
			if send([]byte(":\n\n")) != nil {
				return
			}
			said = time.Now()
		}
		select {
		case <-r.Context().Done():
			return
		case <-serverEnds(r.Context()):
			return
		case <-tick.C:
		}
	}
}

// endsKey is the key of the channel that is closed when the server is told to stop: a stream that goes
// on by itself must not keep it waiting.
type endsKey struct{}

func serverEnds(ctx context.Context) <-chan struct{} {
	ends, _ := ctx.Value(endsKey{}).(<-chan struct{})
	return ends
}

// describeUpdate is describe for the update's part.
func describeUpdate(enum func(schema, property string, values ...any)) {
	states := []any{"", update.Idle, update.Checking, update.Downloading, update.Verifying, update.Writing, update.PendingReboot,
		update.Trial, update.Confirmed, update.Failed, update.RolledBack}
	enum("UpdateStatus", "state", states...)
	enum("UpdateAttempt", "state", states...)
	enum("UpdateStep", "state", states...)
	enum("UpdateAttempt", "kind", update.Update, update.Rollback, update.Drill)
	enum("UpdateAttempt", "source", update.FromRepository, update.FromUpload, update.FromUSB, update.FromSlot)
	enum("UpdateCheck", "name", update.VersionRuns, update.ServiceRuns, update.PortAddress, update.PageOpens, update.DataKept)
	enum("SettingsUpdate", "channel", settings.Stable, settings.Beta)
	enum("UpdateProblem", "error", busy, notUnderWay, bundleRefused, updateSilent)
}

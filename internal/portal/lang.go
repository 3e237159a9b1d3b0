package portal

import (
	"net/http"
	"strings"
	"sync"

	"github.com/nicksnyder/go-i18n/v2/i18n"
	"golang.org/x/text/language"
)

// Languages of the pages. The first is for a browser that wants none of them.
var languages = []string{"en", "de"}

const (
	langCookie = "lang"
	langParam  = "lang"
	cookieAge  = 365 * 24 * 60 * 60 // seconds
)

// These are built at first use: the binary starts other services too.
var (
	matcher = sync.OnceValue(func() language.Matcher {
		return language.NewMatcher([]language.Tag{language.English, language.German})
	})
	localizers = sync.OnceValue(func() map[string]*i18n.Localizer {
		b := i18n.NewBundle(language.English)
		all := map[string]*i18n.Localizer{}
		for _, lang := range languages {
			if _, err := b.LoadMessageFileFS(files, "page/"+lang+".json"); err != nil {
				panic("portal: " + err.Error()) // embedded: every test would have seen it
			}
		}
		for _, lang := range languages {
			all[lang] = i18n.NewLocalizer(b, lang)
		}
		return all
	})
)

// known tells whether lang is a language of the pages.
func known(lang string) bool {
	for _, l := range languages {
		if l == lang {
			return true
		}
	}
	return false
}

// chooseLang returns the language for a reader: the one chosen by link, else the browser's.
func chooseLang(r *http.Request) string {
	if c, err := r.Cookie(langCookie); err == nil && known(c.Value) {
		return c.Value
	}
	return acceptedLang(r.Header.Get("Accept-Language"))
}

// maxAccept is more than a browser says of languages. Comparing thousands takes its time.
const maxAccept = 512

// acceptedLang returns the language that suits an Accept-Language header best.
func acceptedLang(header string) string {
	if len(header) > maxAccept {
		header = header[:max(0, strings.LastIndexByte(header[:maxAccept], ','))]
	}
	_, i := language.MatchStrings(matcher(), header)
	return languages[i]
}

// switchLang remembers the language that the query asks for and leads back to the page without it.
// It reports whether it did.
func switchLang(w http.ResponseWriter, r *http.Request) bool {
	q := r.URL.Query()
	lang := q.Get(langParam)
	if !known(lang) {
		return false
	}
	http.SetCookie(w, &http.Cookie{
		Name: langCookie, Value: lang, Path: "/", MaxAge: cookieAge,
		HttpOnly: true, SameSite: http.SameSiteLaxMode, // not Secure: we are plain HTTP
	})
	q.Del(langParam)
	to := *r.URL // its path is that of one of our pages: it cannot lead to another host
	to.RawQuery = q.Encode()
	http.Redirect(w, r, to.RequestURI(), http.StatusSeeOther)
	return true
}

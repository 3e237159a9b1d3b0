package console

import "cloudlink.local/gateway/internal/condition"

// A language is all that the console says in one language, beyond the conditions' own texts.
type language struct {
	code  string // as package condition knows it
	other string // what the menu calls the language to switch to

	// Labels of the status screen, at most labelWidth wide.
	page, port, serial, uptime, service, machine string
	severity                                     map[condition.Severity]string

	slot, noLink, noAddress, link, noPort   string
	noMachine, noNetwork                    string
	waiting, starting, stopped, restarts    string
	seconds, minutes, hours, days           string // each takes a number
	second, minute, hour, day               string // one of them
	menuHint, menu, addresses, log, restart string
	powerOff, shell, back, unknown          string
	address, router, dns, forever, fixed    string
	logMenu, logTail, logErrors, follow     string
	logAll                                  string
	logEmpty, followHint, logSkipped        string
	askRestart, askPowerOff, answerYes, no  string
	restarting, poweringOff, failed         string
	noShell, shellEnded                     string
	sources                                 map[string]string
}

// labelWidth is the width of the column of labels.
const labelWidth = 9

var english = language{
	code: "en", other: "Deutsch",
	page: "Page", port: "Port", serial: "Serial", uptime: "Uptime", service: "Service", machine: "Machine",
	severity: map[condition.Severity]string{
		condition.Error: "ERROR", condition.Warning: "WARNING", condition.Info: "NOTE",
	},
	slot: "slot %s", noLink: "no link", noAddress: "no address yet", link: "connected",
	noPort:    "none found",
	noMachine: "Process 1 does not answer.", noNetwork: "The network service does not answer.",
	waiting: "%s waits to be started again: %s", starting: "%s is starting", stopped: "%s is stopped",
	restarts: "%d restarts",
	second:   "1 second", minute: "1 minute", hour: "1 hour", day: "1 day",
	seconds: "%d seconds", minutes: "%d minutes", hours: "%d hours", days: "%d days",
	menuHint: "Press Enter for the menu.", menu: "Menu",
	addresses: "Addresses", log: "Log", restart: "Restart", powerOff: "Power off",
	shell: "Root shell (development images only)", back: "Back", unknown: "There is no choice %q.",
	address: "address", router: "router", dns: "DNS", forever: "no expiry", fixed: "%s left",
	logMenu: "Log", logTail: "Last lines", logErrors: "Errors and warnings only", follow: "Follow",
	logAll:   "Everything, with all messages of the kernel",
	logEmpty: "Nothing.", followHint: "Press Enter to end.", logSkipped: "(earlier lines left out: %d)",
	askRestart: "Restart the gateway?", askPowerOff: "Power the gateway off?", answerYes: "y", no: "N",
	restarting: "The gateway restarts.", poweringOff: "The gateway powers off.",
	failed:  "That failed: %v",
	noShell: "This image has no shell.", shellEnded: "The shell has ended.",
	sources: map[string]string{
		"dhcp": "DHCP", "dhcpv6": "DHCPv6", "static": "static", "link-local": "self-chosen", "kernel": "automatic", "manual": "by hand",
	},
}

var german = language{
	code: "de", other: "English",
	page: "Seite", port: "Port", serial: "Seriennr.", uptime: "Laufzeit", service: "Dienst", machine: "System",
	severity: map[condition.Severity]string{
		condition.Error: "FEHLER", condition.Warning: "WARNUNG", condition.Info: "HINWEIS",
	},
	slot: "Systembereich %s", noLink: "keine Verbindung", noAddress: "noch keine Adresse", link: "verbunden",
	noPort:    "keiner gefunden",
	noMachine: "Prozess 1 antwortet nicht.", noNetwork: "Der Netzwerkdienst antwortet nicht.",
	waiting: "%s wartet auf seinen Neustart: %s", starting: "%s startet", stopped: "%s ist beendet",
	restarts: "%d Neustarts",
	second:   "1 Sekunde", minute: "1 Minute", hour: "1 Stunde", day: "1 Tag",
	seconds: "%d Sekunden", minutes: "%d Minuten", hours: "%d Stunden", days: "%d Tage",
	menuHint: "Drücken Sie die Eingabetaste für das Menü.", menu: "Menü",
	addresses: "Adressen", log: "Protokoll", restart: "Neu starten", powerOff: "Ausschalten",
	shell: "Root-Shell (nur in Entwicklungs-Images)", back: "Zurück", unknown: "Die Auswahl %q gibt es nicht.",
	address: "Adresse", router: "Router", dns: "DNS", forever: "unbegrenzt", fixed: "noch %s",
	logMenu: "Protokoll", logTail: "Letzte Zeilen", logErrors: "Nur Fehler und Warnungen", follow: "Mitlesen",
	logAll:   "Alles, mit sämtlichen Meldungen des Kernels",
	logEmpty: "Nichts.", followHint: "Ende mit der Eingabetaste.", logSkipped: "(frühere Zeilen ausgelassen: %d)",
	askRestart: "Gateway neu starten?", askPowerOff: "Gateway ausschalten?", answerYes: "j", no: "N",
	restarting: "Das Gateway startet neu.", poweringOff: "Das Gateway schaltet sich aus.",
	failed:  "Das ging schief: %v",
	noShell: "Dieses Image hat keine Shell.", shellEnded: "Die Shell ist beendet.",
	sources: map[string]string{
		"dhcp": "DHCP", "dhcpv6": "DHCPv6", "static": "fest", "link-local": "selbst gewählt", "kernel": "automatisch", "manual": "von Hand",
	},
}

// languageOf returns English for what it does not know.
func languageOf(code string) *language {
	if code == german.code {
		return &german
	}
	return &english
}

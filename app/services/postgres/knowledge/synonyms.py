"""What customers call things, beside what articles call them.

Words of one line mean about the same to a support desk. They are general English, German and Spanish support
vocabulary; a word of one company's products belongs here as well as any other. Endings don't matter: "refund" also
stands for "refunds" and "refunded".
"""

import re
from collections.abc import Iterable, Mapping, Sequence

_RINGS = """
refund, money back, reimburse, reimbursement, get my money, pay me back, return my money
sign in, log in, login, signin, logon, get in, access my account
can't log in, can't sign in, can't login, can't get in, can't access my account, login troubleshooting
cannot log in, cannot sign in, unable to log in, unable to sign in, login troubleshooting
sign out, log out, logout, log off
password, pw, passwd, passcode, credentials
two-factor, 2fa, mfa, two step, 2 step, two factor, multi factor, authenticator
recovery code, backup code
single sign-on, sso, saml, okta, entra, identity provider
cancel, terminate, stop subscription, end subscription, quit, discontinue, don't want to pay
subscription, plan, membership
delete, remove, erase, wipe
delete account, close account, close my account, remove account
parcel, package, shipment, packet
arrive, show up, turn up
not arrived, never arrived, hasn't arrived, didn't arrive, not received, never got, never received, missing parcel
track, where is my order, where is my parcel, where is my package, whereabouts
deliver, delivery, ship, shipping
return, send back, send it back, bring back
exchange, swap, replace, replacement, different size, wrong size
damaged, broken, defective, faulty, crushed, smashed, dead on arrival
warranty, guarantee
repair, fix, mend
invoice, bill, receipt
charge, bill, debit
charged twice, double charge, duplicate charge, billed twice
card, credit card, debit card, visa, mastercard
declined, refused, rejected, denied, not going through
payment failed, payment not going thru, payment not going through, payment declined, card declined
pay, payment
bank transfer, wire, wire transfer
purchase order, po
discount, coupon, promo, voucher, promotion
nonprofit, charity, ngo, non-profit
education, student, school, university, academic
tax, vat, gst
tax exempt, exemption
price, cost, fee, how much
free trial, trial, trial period
upgrade, larger plan, bigger plan
downgrade, smaller plan, cheaper plan
yearly, annual, per year, whole year, annually
monthly, per month
renew, renewal, auto-renew
reactivate, reopen, come back, restart
email, mail, e-mail
confirmation email, verification mail, verification email, reset link
address, street
moved, new address
phone, mobile, smartphone, iphone, android, cell
app, mobile app, application
crash, freeze, hang
offline, no internet, without internet, no connection, no signal
slow, lag, laggy, performance, takes forever
down, outage, unavailable, not working, status
blank page, white page, page stays white, white screen, empty page
error, error code, bug
500, 502, 503, bad gateway
401, unauthorized
429, too many requests, throttle, rate limit
api key, api token, access token, secret key, token
leaked, exposed, pushed to github, compromised key
revoke, disable, invalidate
create, generate, make, set up, new
set up, setup, configure, enable, turn on, activate, install
turn off, disable, deactivate, switch off
webhook, callback
library, sdk, client library, package, npm, pip
sandbox, test environment, test mode, staging, try things out
import, upload, migrate, bring over
spreadsheet, csv, excel, xlsx
export, download, backup, back up
integration, connect, connector, plugin
sync, synchronise, synchronize, updating, up to date
stock, inventory
restore, recover, undelete, undo, get it back, get back, bring back
gdpr, privacy, personal data, ccpa, data protection, data do you have, know about me
security, secure, safe
vulnerability, security hole, security bug, exploit, bug bounty
phishing, scam, fake email, suspicious email, strange email, spoof
hacked, hijacked, someone else is using, somebody else is using, compromised account, taken over, stolen account
invite, add user, add a coworker, add a colleague, add someone, add member
member, user, coworker, colleague, teammate, employee, staff
employee left, left the company, former employee, ex employee
permission, role, access right
access denied, permission denied, no permission, not allowed
owner, ownership
audit log, who changed, who did, activity log, history
notification, alert, push, reminder
stop emails, stop sending, too many emails, unsubscribe
language, locale, translate, translation
time zone, timezone, timestamp, wrong time, hour off
accessibility, screen reader, blind, wcag, a11y
dark mode, high contrast
agent, human, real person, person, representative
phone number, call you, telephone
contact, support, helpdesk, help desk, customer service
hours, opening hours, business hours
response time, how fast, how quickly, sla
complain, complaint, unhappy, escalate
name, display name
photo, picture, avatar, image
company name, business name
too large, too big
server, data centre, data center, hosted
certified, certificate, soc 2, iso 27001, compliance
merge, join, combine
duplicate, two accounts, twice
sign up, register, create account, open account, new account
locked, locked out, blocked, suspended
report, dashboard, analytics
owner died, owner left, boss
customs, import tax, import duty, duties
quote, offer, estimate
storage, space, quota
browser, chrome, firefox, safari
scanner, barcode reader, reader
pair, connect
label, sticker
blank, empty
print, printer
code, codes
kennwort, passwort
löschen, entfernen
paket, sendung, lieferung, bestellung
rechnung, rechnungen
zurückgeben, zurückschicken, zurücksenden, rückgabe, retoure
erstattung, geld zurück, rückerstattung
kündigen, abbestellen, beenden
angekommen, zugestellt, erhalten
anmelden, einloggen
contraseña, clave
reembolso, devuelvan, devolución, devolver el dinero, dinero
pedido, paquete, envío
cancelar, dar de baja, anular
factura, recibo
móvil, teléfono, celular
"""


def stem(word: str) -> str:
    """Return a word without its ending, as crudely as comparing two forms of it needs."""
    for ending in ("ings", "ing", "ed", "es", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            word = word[: -len(ending)]
            break
    return word[:-1] if word.endswith("e") and len(word) > 3 else word


def _read(rings: str) -> Mapping[tuple[str, ...], tuple[str, ...]]:
    meanings: dict[tuple[str, ...], dict[str, None]] = {}
    for line in rings.strip().splitlines():
        ring = [entry.strip() for entry in line.split(",")]
        for entry in ring:
            key = tuple(map(stem, re.findall(r"\w+", entry.lower().replace("'", ""))))
            meanings.setdefault(key, {}).update((other, None) for other in ring if other != entry)
    return {key: tuple(other.replace("-", " ") for other in others) for key, others in meanings.items()}


def _lengths(entries: Iterable[tuple[str, ...]]) -> Mapping[str, Sequence[int]]:
    lengths: dict[str, set[int]] = {}
    for entry in entries:
        lengths.setdefault(entry[0], set()).add(len(entry))
    return {first: sorted(found, reverse=True) for first, found in lengths.items()}


SYNONYMS = _read(_RINGS)
"""The other words of an entry's lines, without hyphens, by the stems of the entry's words."""
LENGTHS = _lengths(SYNONYMS)
"""Words of the entries that begin with a stem, the longest first."""

"""What the customers of the demo world write about, and what the support desk answers."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Topic:
    """One kind of ticket. `{device}`, `{order}`, `{amount}`, `{days}` and `{name}` are filled in."""

    weight: int
    hours: float
    """Typical working time until it is solved."""
    subjects: tuple[str, ...]
    messages: tuple[str, ...]
    answers: tuple[str, ...]
    note: str
    language: str = "en"
    urgent: float = 0.04
    """Share that is urgent or high."""


FOLLOW_UPS = (
    "Thanks, I tried that and it is better, but not quite there yet. Could you look again?",
    "Just checking in, is there any news on this?",
    "That did it for two of us; my colleague still sees the old state.",
    "Here is the screenshot you asked for. It happens every time, also in a private window.",
    "Sorry for the late reply. Yes, please go ahead as you suggested.",
    "I don't quite understand step two. Where do I find that page?",
)
CLOSINGS = (
    "Thank you for confirming, {name}. I have noted it on your account; is there anything else I can do?",
    "I have corrected it on our side just now. Please reload the page, and you should see the change.",
    "Good news: our specialists have found the cause and fixed it. Thank you for your patience.",
    "That is done. You will get a confirmation by email within a few minutes.",
    "Step two is under Workspace → Members, in the menu beside the name. I attached a picture of it.",
)
THANKS = ("Perfect, works now. Thanks!", "Great, thank you for the quick help.", "Solved, thank you.", "Ok, thanks.")

TOPICS: tuple[Topic, ...] = (
    Topic(
        14,
        2,
        ("Can't sign in any more", "Password reset link does not arrive", "Locked out after new phone"),
        (
            "Hi, since this morning I can't log in. It says that email or password is incorrect, but I did not change it.",
            "I asked for a password reset three times and no message came. I also looked in the spam folder.",
            "I have a new phone and the authenticator codes did not move over. How do I get back in?",
        ),
        (
            "Hi {name}, I am sorry about that. Your account was locked after ten attempts; I checked that they came from"
            " your own office. Please use the reset link that I sent a minute ago. It is valid for 60 minutes.",
            "Hello {name}, our mails to you bounced because the mailbox was full. I removed the block; please ask for a"
            " new link now.",
            "Hello {name}, any of your ten recovery codes will let you in. If they are gone, an admin of your workspace"
            " can reset the second factor under Workspace → Members.",
        ),
        "Identity checked with invoice number and last four digits of the card.",
        urgent=0.12,
    ),
    Topic(
        10,
        6,
        ("Charged twice this month", "Question about invoice", "Card declined at renewal", "VAT number missing on invoice"),
        (
            "There are two charges of {amount} on our statement, but I see only one invoice. Can you check?",
            "Our accountant needs the invoice with the new company name. How can we get a corrected one?",
            "The renewal failed although the card works everywhere else. We don't want to lose access.",
            "We forgot to enter our VAT number before the last invoice. Can this still be corrected?",
        ),
        (
            "Hi {name}, I checked both: one of the two is a reservation that your bank releases within seven days. Only"
            " one payment of {amount} was booked.",
            "Hello {name}, I have cancelled the old invoice and issued a new one with the right details. You find both"
            " under Billing → Invoices.",
            "Hello {name}, the bank asked for an approval (3-D Secure). Please open the invoice and select Pay now; your"
            " access continues in the meantime.",
        ),
        "Checked with the payment processor: one authorisation, one capture.",
    ),
    Topic(
        7,
        16,
        ("Refund for returned {device}", "Please refund our annual plan", "Where is my refund?"),
        (
            "I sent the {device} back {days} days ago (order {order}), but the money has not arrived.",
            "We renewed by mistake and would like our money back for the annual plan.",
            "You confirmed the refund of {amount} last week. When will it be on the card?",
        ),
        (
            "Hi {name}, your return for {order} reached us and passed the check. The refund of {amount} went out today;"
            " cards take 5 to 10 working days.",
            "Hello {name}, you are within the 30 days, so I refunded the full {amount}. The credit note is beside the"
            " invoice.",
        ),
        "Return inspected, complete and unused. Refund approved.",
    ),
    Topic(
        6,
        3,
        ("Upgrade to Business", "Cancel our subscription", "Fewer seats from next month", "Switch to yearly payment"),
        (
            "We want to move to a larger plan but keep the current billing date. Is that possible?",
            "We are closing one of our shops. Please tell me how to cancel and what happens to the data.",
            "Two colleagues left. How do we reduce the number of seats?",
        ),
        (
            "Hi {name}, yes: the change takes effect at once and you pay only the difference for the remaining days. The"
            " date stays as it is.",
            "Hello {name}, you can do this under Billing → Plan. Everything works until the end of the paid period, and"
            " no data is deleted.",
        ),
        "Retention: customer was offered a pause of two months.",
    ),
    Topic(
        13,
        30,
        ("Order {order} has not arrived", "Tracking shows no movement", "Delivered, but we have no parcel", "Customs fee?"),
        (
            "Order {order} should have been here {days} days ago. The tracking page says 'in transit' all the time.",
            "The carrier says that the parcel was delivered, but nobody here received it.",
            "The tracking number for {order} is not known to the carrier.",
            "The carrier wants {amount} for customs before they deliver. I thought duties were included?",
        ),
        (
            "Hi {name}, I opened a search with the carrier for {order}. It can take up to eight working days; if they find"
            " nothing we send a new {device} at no cost.",
            "Hello {name}, the parcel was left at the reception next door, signed by a neighbour. Could you ask there?",
            "Hello {name}, the parcel was sorted wrongly and is on its way again. The new date is in two working days.",
        ),
        "Carrier case opened; waiting for the driver's statement.",
        urgent=0.08,
    ),
    Topic(
        8,
        20,
        ("{device} arrived damaged", "{device} does not turn on", "Wrong item in order {order}", "Repair of our {device}"),
        (
            "The box was crushed and the screen of the {device} is cracked. Photos are attached.",
            "Our new {device} stays dark, even after a night on the charger.",
            "We ordered a {device} and received something else (order {order}).",
            "The {device} that we bought last year loses its charge within an hour. Is that a warranty case?",
        ),
        (
            "Hi {name}, I am sorry! A new {device} leaves our warehouse today by express. You get a label for the old one"
            " by email.",
            "Hello {name}, please hold the power button for 15 seconds while it charges. If it stays dark, tell me and I"
            " send a replacement at once.",
            "Hello {name}, your warranty runs for another year, so the repair is free. The label is in your inbox.",
        ),
        "Serial number checked, within warranty. Second case of this batch: told the hardware team.",
    ),
    Topic(
        8,
        5,
        ("{device} won't connect", "Labels are printed blank", "Scanner reads nothing since update"),
        (
            "The {device} connects for a minute and drops out again. We tried two phones.",
            "Since we changed the roll all labels come out empty.",
            "After the update the scanner beeps but the product does not appear.",
        ),
        (
            "Hi {name}, please update the firmware under Devices and turn off battery saving for the app. That solves it"
            " in most cases.",
            "Hello {name}, blank labels mean that the heat-sensitive side faces down. Please turn the roll over and print"
            " a self test.",
        ),
        "Firmware 4.2 has a known pairing bug on some phones; 4.2.1 fixes it.",
    ),
    Topic(
        9,
        9,
        ("API answers 429", "Webhooks stopped arriving", "401 since key rotation", "Question about pagination"),
        (
            "Our nightly job gets 429 after a few minutes although we make fewer than 500 calls. What are the limits?",
            "We have received no webhook since yesterday. The endpoint answers 200 when we test it.",
            "Since we rotated the key each call answers 401 key_invalid.",
        ),
        (
            "Hi {name}, writes count five times. Please use the bulk endpoint and wait for as long as Retry-After says; I"
            " raised your limit for this week.",
            "Hello {name}, the endpoint was disabled after three days of timeouts. I enabled it and sent the stored events"
            " again.",
            "Hello {name}, the requests still carry the old key. The request log shows which server sends it.",
        ),
        "Request log: timeouts start at the same minute as their deployment.",
        urgent=0.15,
    ),
    Topic(
        7,
        8,
        ("Import fails with strange characters", "Stock not syncing with our shop", "Full export before audit"),
        (
            "The import shows strange characters instead of umlauts and refuses 300 rows.",
            "Stock in the online shop goes back to the old number every few minutes.",
            "Our auditor needs all orders of the last two years. Is there a full export?",
        ),
        (
            "Hi {name}, the file is in Windows-1252. Choose that under Encoding, or save it as CSV UTF-8, and the rows"
            " pass.",
            "Hello {name}, two systems lead the stock. I set the source to Fernhill and ran a full sync; please watch it"
            " today.",
            "Hello {name}, as an owner you find it under Data → Export → Full export. It takes about an hour for you.",
        ),
        "Connected directly and through an automation: explains the double orders.",
    ),
    Topic(
        5,
        4,
        ("Invite our bookkeeper", "Former employee still has access", "Who changed the stock?", "Permission denied"),
        (
            "How can our bookkeeper see the invoices but nothing else?",
            "Somebody who left the company still appears as a member. Please tell me how to remove them.",
            "A quantity was changed by 400 yesterday and nobody knows why. Can you see who did it?",
        ),
        (
            "Hi {name}, invite them with the role Billing. One accountant is free and takes no seat.",
            "Hello {name}, choose Deactivate under Workspace → Members. Please rotate the API keys they knew as well.",
            "Hello {name}, the audit log shows that it was an import. You can roll it back under Data → History.",
        ),
        "Explained that we can't change rights on a customer's behalf.",
    ),
    Topic(
        4,
        7,
        ("Suspicious email in your name", "Strange sign-in from abroad", "Please delete our customer data"),
        (
            "We got an email with a 'final notice' and a ZIP file. Is it from you?",
            "There is a session from a country where none of us has ever been.",
            "A customer asks us to erase all personal data. How do we do that, and how long does it take?",
        ),
        (
            "Hi {name}, no, that is phishing. Please forward it as an attachment and delete it; nothing was opened, so you"
            " are safe.",
            "Hello {name}, I ended all sessions. Please choose a new password and turn on two-factor authentication.",
            "Hello {name}, open the customer and select Erase personal data. It is done at once; backups expire after 35"
            " days.",
        ),
        "Passed to the security team for a look at the sign-in addresses.",
        urgent=0.3,
    ),
    Topic(
        6,
        3,
        ("Very slow since Monday", "App crashes on start", "Blank page after update", "Is there an outage?"),
        (
            "Every page takes ten seconds since Monday, for all of us.",
            "The app closes right after the start on two of our tablets.",
            "After your update the orders page stays white in one browser.",
        ),
        (
            "Hi {name}, the connection test shows a proxy that holds back WebSockets. Please ask your IT to allow our"
            " domain.",
            "Hello {name}, version 6.4.1 fixes this crash and is in the stores now. Nothing you counted offline is lost.",
            "Hello {name}, an extension that translates pages breaks the view. A private window should work at once.",
        ),
        "Reproduced on a test tablet with little memory; ticket for the app team.",
        urgent=0.15,
    ),
    Topic(
        60,
        8,
        ("Anmeldung nicht möglich", "Frage zur Rechnung", "Paket {order} nicht angekommen", "{device} defekt"),
        (
            "Guten Tag, seit heute kann ich mich nicht mehr anmelden. Können Sie bitte nachsehen?",
            "Auf der letzten Rechnung fehlt unsere Umsatzsteuer-ID. Bitte schicken Sie eine korrigierte Rechnung.",
            "Die Bestellung {order} ist seit {days} Tagen überfällig.",
        ),
        (
            "Guten Tag {name}, vielen Dank für Ihre Nachricht. Ich habe es geprüft und auf unserer Seite korrigiert;"
            " bitte versuchen Sie es noch einmal.",
            "Guten Tag {name}, ich kümmere mich darum und melde mich bis morgen mit einem Ergebnis.",
        ),
        "Kundin zurückgerufen, Anliegen geklärt.",
        language="de",
    ),
    Topic(
        60,
        8,
        ("No puedo iniciar sesión", "Duda sobre la factura", "El pedido {order} no llega", "Devolución del {device}"),
        (
            "Buenos días, desde esta mañana no puedo entrar en mi cuenta.",
            "Necesitamos la factura con el nombre correcto de la empresa.",
            "El pedido {order} tenía que llegar hace {days} días.",
        ),
        (
            "Hola {name}, gracias por escribirnos. Lo he revisado y ya está corregido; por favor, inténtelo de nuevo.",
            "Hola {name}, he abierto una reclamación con el transportista. Le aviso en cuanto sepa algo.",
        ),
        "Identidad comprobada por teléfono.",
        language="es",
    ),
)

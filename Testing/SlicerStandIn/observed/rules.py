"""Questions put to a running Slicer 5.13 (Qt 5.15, PythonQt); its answers are in rules.txt.

Run inside Slicer with --python-script, or on the stand-in: apart from addresses the lines must be the same.
Each line is `rule -> repr of the answer or exception`, cut at 140 characters.
"""

import functools
import sys

import ctk  # noqa: F401
import qt
import slicer

OUT = open(sys.argv[1] if len(sys.argv) > 1 else "rules.txt", "w", encoding="utf-8")  # noqa: SIM115


def ask(rule, question):
    try:
        answer = question()
    except BaseException as error:  # the exception is the answer
        answer = f"{type(error).__name__}: {str(error)[:90]}"
    print(rule, "->", repr(answer)[:140], file=OUT, flush=True)


w = qt.QPushButton("a")
ask("1 text", lambda: w.text)
ask("1 text()", lambda: w.text())
ask("1 isVisible()", lambda: w.isVisible())
ask("1 QTableWidgetItem.text()", lambda: qt.QTableWidgetItem("x").text())
t = qt.QTimer()
ask("1 timer.setSingleShot", lambda: t.setSingleShot(True))


def s():
    w.nosuch = 1


ask("2 set unknown", s)


def s2():
    w.setText = 1


ask("2 set slot", s2)
c = slicer.qMRMLNodeComboBox()


def s3():
    c.nodeTypes = ["vtkMRMLScalarVolumeNode"]
    return c.nodeTypes


ask("2 nodeTypes", s3)
ask("2 setNodeTypes", lambda: c.setNodeTypes(["x"]))
ask("3 name", lambda: (setattr(w, "objectName", "ob"), w.name)[1])
ask("4 kwargs", lambda: w.setText(text="b"))
ask("4 wrong args", lambda: w.setText(1, 2, 3))
ask("4 wrong type", lambda: w.setCheckable("abc"))
ask("5 connect ok", lambda: w.connect("clicked(bool)", lambda x: None))
ask("5 connect bad", lambda: w.connect("clicked", lambda x: None))
ask("5 connect bad2", lambda: w.connect("clicke(bool)", lambda x: None))
ask("6 attr", lambda: w.clicked.connect(lambda: None))
ask("6 index", lambda: w.clicked[bool])
ask("6 unknown", lambda: w.nosig.connect(print))
p = qt.QProcess()
ask("6 error", lambda: p.error.connect(print))
ask("6 errorOccurred", lambda: p.errorOccurred.connect(lambda e: None))
ask("6 finished str", lambda: p.connect("finished(int,QProcess::ExitStatus)", lambda a, b: None))
got = []
w.connect("clicked(bool)", lambda: got.append("none"))
w.connect("clicked(bool)", lambda x: got.append(x))
w.click()
ask("7 args", lambda: got)


def f(x):
    return None


ask("8 disconnect other", lambda: w.disconnect("clicked(bool)", f))
ask("9 enum", lambda: (qt.QFrame.HLine, isinstance(qt.QFrame.HLine, int)))
ask("9 scoped", lambda: qt.QFrame.Shape.HLine)
ask("10 isinstance", lambda: (isinstance(c, qt.QWidget), c.inherits("QWidget")))
ask("12 stringlist", lambda: type(c.nodeTypes))


def s4():
    label = qt.QLabel()
    label.text = None
    return label.text


ask("12 None text", s4)


def s5():
    c2 = slicer.qMRMLNodeComboBox()
    c2.nodeTypes = "vtkX"
    return c2.nodeTypes


ask("12 str to list", s5)
ask("13 None node", lambda: c.setCurrentNode(None))
ask("13 wrong obj", lambda: c.setCurrentNode("a"))
ask("14 singleShot", lambda: qt.QTimer.singleShot(10, lambda: None))
ask("15 settings", lambda: (qt.QSettings().setValue("sx/a", True), qt.QSettings().value("sx/a"))[1])
ask("16 home", lambda: type(slicer.app.slicerHome))
ask("16 layoutManager", lambda: slicer.app.layoutManager().className())
ask("16 testing", lambda: slicer.app.testingEnabled())


class B(qt.QPushButton):
    pass


b = B()


def s6():
    b.mine = 3
    return b.mine


ask("2 subclass attr", s6)
got2 = []
w2 = qt.QPushButton()
w2.connect("clicked(bool)", functools.partial(lambda *a: got2.append(a), "p"))
w2.click()
ask("7 partial", lambda: got2)
ask("10 py parentless", lambda: qt.QLabel("gone") and True)
g = qt.QWidget()
lay = qt.QVBoxLayout(g)
lay.addWidget(qt.QLabel("k"))
ask("10 addWidget keeps", lambda: lay.itemAt(0).widget().text)
ask("QComboBox textActivated/currentTextChanged", lambda: qt.QComboBox().currentTextChanged.connect(lambda s: None))
ask("exec_", lambda: hasattr(qt.QDialog(), "exec_"))
OUT.close()

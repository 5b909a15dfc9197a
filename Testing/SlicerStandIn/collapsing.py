"""ctkCollapsibleButton and ctkCollapsibleGroupBox."""

from __future__ import annotations

from PySide6 import QtCore, QtGui, QtWidgets

from .implementations import implements
from .own_widgets import with_properties

_UNLIMITED = (1 << 24) - 1  # QWIDGETSIZE_MAX


class _Contents:
    """Shows and hides a widget's children, and remembers which were hidden on their own account."""

    def __init__(self, owner: QtWidgets.QWidget) -> None:
        self._owner = owner
        self._to_show: set[QtWidgets.QWidget] = set()
        self._collapsed = False
        self._busy = False

    def collapse(self, collapsed: bool) -> None:
        if collapsed == self._collapsed:
            return
        self._collapsed = collapsed
        self._busy = True
        if collapsed:
            children = self._owner.findChildren(
                QtWidgets.QWidget, options=QtCore.Qt.FindChildOption.FindDirectChildrenOnly
            )
            self._to_show = {child for child in children if not child.isHidden()}
        for child in self._to_show:
            child.setVisible(not collapsed)
        self._busy = False

    def child_event(self, child: QtWidgets.QWidget, event: QtCore.QEvent) -> None:
        """A child that is shown while collapsed stays hidden until the contents are seen again."""
        if not self._collapsed or self._busy:
            return
        if event.type() == QtCore.QEvent.Type.ShowToParent:
            self._to_show.add(child)
            self._busy = True
            child.hide()
            self._busy = False
        elif event.type() == QtCore.QEvent.Type.HideToParent:
            self._to_show.discard(child)


@implements
class ctkCollapsibleButton(
    with_properties(QtWidgets.QAbstractButton, "ctkCollapsibleButton", written=("collapsed",), collapsedHeight=10)
):
    """A bar to click on, with a layout of widgets under it; it is checked while these are seen."""

    contentsCollapsed = QtCore.Signal(bool)

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._contents = _Contents(self)
        self.setCheckable(True)
        self.setChecked(True)
        self.setSizePolicy(QtWidgets.QSizePolicy.Policy.Minimum, QtWidgets.QSizePolicy.Policy.Preferred)
        self.setContentsMargins(0, self._bar_height(), 0, 0)
        self.toggled.connect(lambda checked: self._collapse(not checked))

    def _collapsed(self) -> bool:
        return not self.isChecked()

    def _set_collapsed(self, collapsed: bool) -> None:
        self.setChecked(not collapsed)

    collapsed = QtCore.Property(bool, _collapsed, _set_collapsed)

    def _collapse(self, collapsed: bool) -> None:
        self._contents.collapse(collapsed)
        self.setMaximumHeight(self.sizeHint().height() if collapsed else _UNLIMITED)
        self.updateGeometry()
        self.contentsCollapsed.emit(collapsed)

    def property_changed(self, name: str) -> None:
        self.update()

    def _bar_height(self) -> int:
        return max(self.fontMetrics().height(), 12) + 8

    def hitButton(self, position: QtCore.QPoint) -> bool:
        return position.y() <= self._bar_height()

    def childEvent(self, event: QtCore.QChildEvent) -> None:
        if event.type() == QtCore.QEvent.Type.ChildAdded and event.child().isWidgetType():
            event.child().installEventFilter(self)
        super().childEvent(event)

    def eventFilter(self, watched: QtCore.QObject, event: QtCore.QEvent) -> bool:
        if isinstance(watched, QtWidgets.QWidget) and watched.parent() is self:
            self._contents.child_event(watched, event)
        return super().eventFilter(watched, event)

    def sizeHint(self) -> QtCore.QSize:
        bar = QtCore.QSize(self.fontMetrics().horizontalAdvance(self.text()) + 40, self._bar_height())
        if not self.isChecked():
            return bar + QtCore.QSize(0, self.property("collapsedHeight"))
        # The layout counts the bar already: it is the widget's upper margin.
        return bar if self.layout() is None else self.layout().sizeHint().expandedTo(bar)

    def minimumSizeHint(self) -> QtCore.QSize:
        height = self._bar_height()
        if self.isChecked() and self.layout() is not None:
            return self.layout().minimumSize().expandedTo(QtCore.QSize(40, height))
        return QtCore.QSize(40, height)

    def paintEvent(self, event: QtGui.QPaintEvent) -> None:
        bar = QtCore.QRect(0, 0, self.width(), self._bar_height())
        painter = QtWidgets.QStylePainter(self)
        frame = QtWidgets.QStyleOptionFrame()
        frame.initFrom(self)
        frame.rect = self.rect().adjusted(0, bar.height() // 2, 0, 0)
        frame.lineWidth = 1
        painter.drawPrimitive(QtWidgets.QStyle.PrimitiveElement.PE_FrameGroupBox, frame)
        painter.fillRect(bar, self.palette().button())
        painter.setPen(self.palette().mid().color())
        painter.drawRect(bar.adjusted(0, 0, -1, -1))
        arrow = QtWidgets.QStyleOption()
        arrow.initFrom(self)
        arrow.rect = QtCore.QRect(6, (bar.height() - 12) // 2, 12, 12)
        elements = QtWidgets.QStyle.PrimitiveElement
        painter.drawPrimitive(
            elements.PE_IndicatorArrowDown if self.isChecked() else elements.PE_IndicatorArrowRight, arrow
        )
        painter.setPen(self.palette().buttonText().color())
        painter.drawText(bar.adjusted(24, 0, -4, 0), QtCore.Qt.AlignmentFlag.AlignVCenter, self.text())


@implements
class ctkCollapsibleGroupBox(
    with_properties(QtWidgets.QGroupBox, "ctkCollapsibleGroupBox", written=("collapsed",), collapsedHeight=14)
):
    """A group box whose check mark shows and hides what it holds."""

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._contents = _Contents(self)
        self.setCheckable(True)
        self.setChecked(True)
        self.toggled.connect(self._expand)

    def _collapsed(self) -> bool:
        return not self.isChecked()

    def _set_collapsed(self, collapsed: bool) -> None:
        self.setChecked(not collapsed)

    collapsed = QtCore.Property(bool, _collapsed, _set_collapsed)

    def _expand(self, expanded: bool) -> None:
        self._contents.collapse(not expanded)
        title = self.fontMetrics().height() + self.property("collapsedHeight")
        self.setMaximumHeight(_UNLIMITED if expanded else title)

    def childEvent(self, event: QtCore.QChildEvent) -> None:
        if event.type() == QtCore.QEvent.Type.ChildAdded and event.child().isWidgetType():
            event.child().installEventFilter(self)
        super().childEvent(event)

    def eventFilter(self, watched: QtCore.QObject, event: QtCore.QEvent) -> bool:
        if isinstance(watched, QtWidgets.QWidget) and watched.parent() is self:
            self._contents.child_event(watched, event)
        return super().eventFilter(watched, event)
